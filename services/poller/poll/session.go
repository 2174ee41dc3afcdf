package poll

import (
	"context"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/ask"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/config"
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
	p.ran = true
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
		a, j := p.todo(clock.Now())
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
// sets the timer to when there is more. The caller has locked mu.
func (p *Poll) todo(now time.Time) (a *task, j *record.Job) {
	s := p.session.Load()
	if p.woken.Swap(false) {
		p.outbox.retry.Hurry()
	}
	cut, stopping := s.cut.Err() != nil, s.stop.Err() != nil
	if !cut {
		p.reflect(now)
		if !stopping && !now.Before(p.ticks.due()) {
			a = p.task(now, s.tenure)
			p.reflect(now)
		}
		if stopping {
			p.outbox.sayLast(&p.trust, now)
		}
		if !stopping || !p.outbox.retry.Failing() {
			j = p.nextJob(now, s.tenure)
		}
	}
	switch {
	case !cut && !stopping:
		s.arm(p.outbox.retry.Before(p.ticks.due(), now), now)
	case !p.ticks.calling && !p.outbox.putting && s.ended != nil:
		s.timer.Stop()
		s.ended()
		s.ended = nil
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

// reflect looks at the source's circuits: while all are open nothing confirms the
// value, so that it is stale even before its own next tick; when one closes the poll
// need not wait for that tick; and somebody has to probe.
func (p *Poll) reflect(now time.Time) {
	state, _, _ := p.Upstreams.State()
	switch t := &p.trust; {
	case state != event.Closed && t.known && !t.stale && !p.ticks.calling:
		p.judge(p.open(), now)
	case state == event.Closed && t.stale && t.reason == event.BreakerOpen && p.ticks.extraAt.IsZero():
		p.ticks.extraAt = now.Add(p.Schedule.Start())
	}
	if p.ticks.probeAt = p.Upstreams.NextProbe(); !p.ticks.probeAt.IsZero() {
		at := p.ticks.probeAt.Add(p.Upstreams.ProbeDelay(p.Index, len(p.Source.Polls)))
		p.ticks.probe(at, now, state == event.Closed, config.NewPace(p.Source, p.Config).Tick())
	}
}

// task makes of a tick that is due a round of calls, unless none is to be made.
func (p *Poll) task(now time.Time, t *lease.Tenure) *task {
	k, slot, missed := p.ticks.take(p.Schedule, now)
	p.skip(missed)
	if k == noTick || !t.Valid() {
		return nil
	}
	up, permit, err := p.Upstreams.Pick(k == probeTick)
	if err != nil {
		p.refused(k, err, now)
		return nil
	}
	p.ticks.calling = true
	return &task{
		kind: k, prev: p.kind.before(), begin: now, fetch: p.kind.plan(now),
		Tick: ask.Tick{Up: up, Permit: permit, ProbeOnly: k == probeTick, Forgive: !p.ticks.starved, Slot: slot},
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
	p.ticks.calling = false
	if cut.Err() != nil {
		r.Report()
		return
	}
	p.take(r, found, a.kind)
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
		p.outbox.putting = false
		return
	}
	st, err := stream.Put(s.cut, *j)
	stream.Leave()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.outbox.putting = false
	if s.cut.Err() == nil {
		p.settle(j, st, err)
	}
}
