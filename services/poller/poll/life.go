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

// life is a poll under one tenure.
type session struct {
	stop, hard context.Context
	tenure     *lease.Tenure
	workers    *Workers
	advance    func()
	timer      *time.Timer
	armed      time.Time // what the timer waits for; of no meaning when that has passed
	ended      func()    // called once, when nothing is under way any more; nil then
}

// errand is a call to make.
type task struct {
	ask.Tick
	kind  tickKind
	prev  ask.Before
	begin time.Time
	from  walk.From // of a poll that follows
}

// begin begins a tenure.
func (p *Poll) Begin(stop, hard context.Context, t *lease.Tenure, w *Workers, ended func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := &session{stop: stop, hard: hard, tenure: t, workers: w, advance: p.Advance, ended: ended}
	l.timer = time.AfterFunc(record.Idle, func() { w.Do(l.advance) })
	p.life.Store(l)
	p.begun = true
	w.Do(l.advance)
}

// wake has the poll look around: a breaker changed, or NATS is back. It may be
// called under the mutex of a circuit, and by the poll itself.
func (p *Poll) Wake() {
	if !p.woken.Swap(true) {
		if l := p.life.Load(); l != nil {
			l.workers.Do(l.advance)
		}
	}
}

// advance does what is to be done, until there is nothing.
func (p *Poll) Advance() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch a, j := p.todo(clock.Now()); {
		case a == nil && j == nil:
			return
		case a == nil:
			p.publish(j)
		case j == nil:
			p.call(a)
		default:
			p.life.Load().workers.Do(func() {
				p.mu.Lock()
				p.publish(j)
				p.mu.Unlock()
				p.Advance()
			})
			p.call(a)
		}
	}
}

// todo says what is to be done now, a call, a publish, both or nothing, and sets
// the timer to when there is more.
func (p *Poll) todo(now time.Time) (a *task, j *record.Job) {
	l := p.life.Load()
	if p.woken.Swap(false) {
		p.retry.At = time.Time{}
	}
	cut, stopping := l.hard.Err() != nil, l.stop.Err() != nil
	if !cut {
		p.reflect(now)
		if !stopping && !now.Before(p.due()) {
			a = p.errand(now, l.tenure)
			p.reflect(now)
		}
		if stopping {
			p.sayLast(now)
		}
		if next, ok := p.next(now, l.tenure); ok && (!stopping || !p.retry.Failing()) {
			p.putting, j = true, new(record.Job)
			*j = next
			p.renew = p.renew && j.Fresh == nil
		}
	}
	switch {
	case !cut && !stopping:
		l.arm(p.retry.Before(p.due(), now), now)
	case !p.calling && !p.putting && l.ended != nil:
		l.timer.Stop()
		l.ended()
		l.ended = nil
	}
	return a, j
}

// arm sets the timer.
func (l *session) arm(at, now time.Time) {
	if at.Equal(l.armed) && now.Before(at) {
		return
	}
	l.armed = at
	l.timer.Reset(at.Sub(now))
}

// errand makes of a tick that is due a call, unless none is to be made.
func (p *Poll) errand(now time.Time, t *lease.Tenure) *task {
	k, slot := p.tick(now)
	if k == noTick || !t.Valid() {
		return nil
	}
	up, leave, err := p.Upstreams.Pick(k == probeTick)
	if err != nil {
		p.refused(k, err, now)
		return nil
	}
	p.calling = true
	a := &task{
		kind: k, prev: p.before(), begin: now,
		Tick: ask.Tick{Up: up, Permit: leave, ProbeOnly: k == probeTick, Forgive: !p.starved, Slot: slot},
	}
	if p.Follow != nil {
		a.from = p.walkFrom(now)
	}
	return a
}

// call makes a call and takes what it brings. Meanwhile it lets mu go.
func (p *Poll) call(a *task) {
	hard := p.life.Load().hard
	p.mu.Unlock()
	r := p.Read(hard, a.Tick, a.prev)
	var found walk.Walked
	if p.Follow != nil && r.Failure == nil && !r.Abandoned {
		w := walk.Walker{Asker: p.Asker, Sequence: p.Follow.Sequence, Stream: p.Host.Stream().ReadBack}
		found = w.Walk(hard, &r, a.from, a.Tick, a.begin)
	}
	p.mu.Lock()
	p.calling = false
	if hard.Err() != nil {
		r.Report()
		return
	}
	p.take(r, found, a.kind)
}

// publish does a job and learns how it went. Meanwhile it lets mu go.
func (p *Poll) publish(j *record.Job) {
	l := p.life.Load()
	p.mu.Unlock()
	stream := p.Host.Stream()
	waited, in := stream.Enter(l.hard)
	p.mu.Lock()
	p.putting = false
	if waited && in { // there may be something newer to say, or nothing any more
		var next record.Job
		p.renew = p.renew || j.Fresh != nil
		if next, in = p.next(clock.Now(), l.tenure); in {
			j = &next
			p.renew = p.renew && j.Fresh == nil
		} else {
			stream.Leave()
		}
	}
	if !in {
		return
	}
	p.putting = true
	p.mu.Unlock()
	st, err := stream.Put(l.hard, *j)
	stream.Leave()
	p.mu.Lock()
	p.putting = false
	if l.hard.Err() == nil {
		p.Settle(PutDone{*j, st, err})
	}
}
