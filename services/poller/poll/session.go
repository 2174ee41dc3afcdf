package poll

import (
	"context"
	"time"

	"github.com/pollcast/pollcast/services/poller/ask"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/lease"
	"github.com/pollcast/pollcast/services/poller/record"
	"github.com/pollcast/pollcast/services/poller/walk"
)

// session is a poll under one tenure.
type session struct {
	stop, cut context.Context // cut ends what stop lets finish
	tenure    *lease.Tenure
	workers   *Workers
	advance   func()
	timer     *time.Timer
	armed     time.Time // what the timer waits for; without meaning when that has passed
	ended     func()    // called once, when nothing is under way any more; then nil
}

// task is a round of calls to make.
type task struct {
	ask.Tick
	kind  tickKind
	prev  ask.Before
	begin time.Time
	fetch fetch // or nil
}

// Begin begins a tenure. The poll asks until stop ends, and finishes what is under way
// until cut ends. Then it calls ended.
func (p *Poll) Begin(stop, cut context.Context, t *lease.Tenure, w *Workers, ended func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &session{stop: stop, cut: cut, tenure: t, workers: w, advance: p.Advance, ended: ended}
	s.timer = time.AfterFunc(record.Never, func() { w.Do(s.advance) })
	p.session.Store(s)
	p.state.ran = true
	w.Do(s.advance)
}

// Wake has the poll advance: a breaker changed, or NATS is back. It does not wait, and
// may be called under the mutex of a circuit and by the poll itself.
func (p *Poll) Wake() {
	if !p.woken.Swap(true) {
		if s := p.session.Load(); s != nil {
			s.workers.Do(s.advance)
		}
	}
}

// Advance does what is to be done, until there is nothing.
func (p *Poll) Advance() {
	for {
		p.mu.Lock()
		a, j := p.state.todo(clock.Now(), p.session.Load(), p.woken.Swap(false))
		p.mu.Unlock()
		switch {
		case a == nil && j == nil:
			return
		case a == nil:
			p.publish(j)
		case j == nil:
			p.call(a)
		default:
			p.session.Load().workers.Do(func() {
				p.publish(j)
				p.Advance()
			})
			p.call(a)
		}
	}
}

// todo says what is to be done now: a round of calls, a publish, both or nothing. It
// sets the timer to when there is more.
func (s *state) todo(now time.Time, in *session, woken bool) (a *task, j *record.Job) {
	if woken {
		s.outbox.retry.Hurry()
	}
	cut, stopping := in.cut.Err() != nil, in.stop.Err() != nil
	if !cut {
		s.reflect(now)
		if !stopping && !now.Before(s.ticks.due()) {
			a = s.task(now, in.tenure)
			s.reflect(now)
		}
		if stopping {
			s.outbox.sayLast(&s.trust, now)
		}
		if !stopping || !s.outbox.retry.Failing() {
			j = s.nextJob(now, in.tenure)
		}
	}
	switch {
	case !cut && !stopping:
		in.arm(s.outbox.retry.Before(s.ticks.due(), now), now)
	case !s.ticks.calling && !s.outbox.putting && in.ended != nil:
		in.timer.Stop()
		in.ended()
		in.ended = nil
	}
	return a, j
}

// arm sets the timer.
func (s *session) arm(at, now time.Time) {
	if at.Equal(s.armed) && now.Before(at) {
		return
	}
	s.armed = at
	s.timer.Reset(at.Sub(now))
}

// task makes of a tick that is due a round of calls, unless none is to be made.
func (s *state) task(now time.Time, t *lease.Tenure) *task {
	k, slot, missed := s.ticks.take(*s.schedule, now)
	s.skip(missed)
	if k == noTick || !t.Valid() {
		return nil
	}
	up, permit, err := s.Upstreams.Pick(k == probeTick)
	if err != nil {
		s.refused(k, err, now)
		return nil
	}
	s.ticks.calling = true
	return &task{
		kind: k, prev: s.kind.before(), begin: now, fetch: s.kind.plan(now),
		Tick: ask.Tick{Up: up, Permit: permit, ProbeOnly: k == probeTick, Forgive: !s.ticks.starved, Slot: slot},
	}
}

// call makes a round of calls and takes what it brings.
func (p *Poll) call(a *task) {
	cut := p.session.Load().cut
	r := p.Read(cut, a.Tick, a.prev)
	var found *walk.Walked
	if a.fetch != nil && r.Failure == nil && !r.Abandoned {
		found = a.fetch(cut, &r, a.Tick, a.begin)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.ticks.calling = false
	if cut.Err() != nil {
		r.Report()
		return
	}
	p.state.take(r, found, a.kind)
}

// publish does a job and learns how it went.
func (p *Poll) publish(j *record.Job) {
	s, stream := p.session.Load(), p.host.Stream()
	waited, in := stream.Enter(s.cut)
	if waited && in { // there may be something newer to publish, or nothing any more
		if j = p.remake(j, s.tenure); j == nil {
			stream.Leave()
			return
		}
	}
	if !in {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.state.outbox.putting = false
		return
	}
	st, err := stream.Put(s.cut, *j)
	stream.Leave()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.outbox.putting = false
	if s.cut.Err() == nil {
		p.state.settle(j, st, err)
	}
}
