package poller

import (
	"context"
	"time"
)

// life is a poll under one tenure.
type life struct {
	stop, hard context.Context
	tenure     *tenure
	workers    *workers
	advance    func()
	timer      *time.Timer
	armed      time.Time // what the timer waits for; of no meaning when that has passed
	ended      func()    // called once, when nothing is under way any more; nil then
}

// errand is a call to make.
type errand struct {
	tickInfo
	kind  tickKind
	prev  before
	begin time.Time
	from  walkFrom // of a poll that follows
}

// begin begins a tenure.
func (p *poll) begin(stop, hard context.Context, t *tenure, w *workers, ended func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := &life{stop: stop, hard: hard, tenure: t, workers: w, advance: p.advance, ended: ended}
	l.timer = time.AfterFunc(idle, func() { w.do(l.advance) })
	p.life.Store(l)
	p.begun = true
	w.do(l.advance)
}

// wake has the poll look around: a breaker changed, or NATS is back. It may be
// called under the mutex of a circuit, and by the poll itself.
func (p *poll) wake() {
	if !p.woken.Swap(true) {
		if l := p.life.Load(); l != nil {
			l.workers.do(l.advance)
		}
	}
}

// advance does what is to be done, until there is nothing.
func (p *poll) advance() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch a, j := p.todo(clock()); {
		case a == nil && j == nil:
			return
		case a == nil:
			p.publish(j)
		case j == nil:
			p.call(a)
		default:
			p.life.Load().workers.do(func() {
				p.mu.Lock()
				p.publish(j)
				p.mu.Unlock()
				p.advance()
			})
			p.call(a)
		}
	}
}

// todo says what is to be done now, a call, a publish, both or nothing, and sets
// the timer to when there is more.
func (p *poll) todo(now time.Time) (a *errand, j *job) {
	l := p.life.Load()
	if p.woken.Swap(false) {
		p.retry.at = time.Time{}
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
		if next, ok := p.next(now, l.tenure); ok && (!stopping || !p.retry.failing()) {
			p.putting, j = true, new(job)
			*j = next
			p.renew = p.renew && j.fresh == nil
		}
	}
	switch {
	case !cut && !stopping:
		l.arm(p.retry.before(p.due(), now), now)
	case !p.calling && !p.putting && l.ended != nil:
		l.timer.Stop()
		l.ended()
		l.ended = nil
	}
	return a, j
}

// arm sets the timer.
func (l *life) arm(at, now time.Time) {
	if at.Equal(l.armed) && now.Before(at) {
		return
	}
	l.armed = at
	l.timer.Reset(at.Sub(now))
}

// errand makes of a tick that is due a call, unless none is to be made.
func (p *poll) errand(now time.Time, t *tenure) *errand {
	k, slot := p.tick(now)
	if k == noTick || !t.valid() {
		return nil
	}
	up, leave, err := p.upstreams.pick(k == probeTick)
	if err != nil {
		p.refused(k, err, now)
		return nil
	}
	p.calling = true
	a := &errand{
		kind: k, prev: p.before(), begin: now,
		tickInfo: tickInfo{up: up, leave: leave, probeOnly: k == probeTick, forgive: !p.starved, slot: slot},
	}
	if p.follow != nil {
		a.from = p.walkFrom(now)
	}
	return a
}

// call makes a call and takes what it brings. Meanwhile it lets mu go.
func (p *poll) call(a *errand) {
	hard := p.life.Load().hard
	p.mu.Unlock()
	r := p.read(hard, a.tickInfo, a.prev)
	var found walked
	if p.follow != nil && r.failure == nil && !r.abandoned {
		w := walker{asker: p.asker, sequence: p.follow.sequence, stream: p.host.stream().past}
		found = w.walk(hard, &r, a.from, a.tickInfo, a.begin)
	}
	p.mu.Lock()
	p.calling = false
	if hard.Err() != nil {
		r.tellCircuits()
		return
	}
	p.take(r, found, a.kind)
}

// publish does a job and learns how it went. Meanwhile it lets mu go.
func (p *poll) publish(j *job) {
	l := p.life.Load()
	p.mu.Unlock()
	stream := p.host.stream()
	waited, in := stream.enter(l.hard)
	p.mu.Lock()
	p.putting = false
	if waited && in { // there may be something newer to say, or nothing any more
		var next job
		p.renew = p.renew || j.fresh != nil
		if next, in = p.next(clock(), l.tenure); in {
			j = &next
			p.renew = p.renew && j.fresh == nil
		} else {
			stream.leave()
		}
	}
	if !in {
		return
	}
	p.putting = true
	p.mu.Unlock()
	st, err := stream.put(l.hard, *j)
	stream.leave()
	p.mu.Lock()
	p.putting = false
	if l.hard.Err() == nil {
		p.settle(putDone{*j, st, err})
	}
}

// places bounds the publishes that are under way at once, over all sources: when
// thousands of polls begin together, calls must not wait for the machine to be
// done with what they all have to say. nil is no bound.
type places chan struct{}

// maxPuts is their number, enough for 5,000 records a second when NATS takes
// 50 ms for each.
const maxPuts = 256

// take waits for a place; in is false if ctx ended before there was one.
func (at places) take(ctx context.Context) (waited, in bool) {
	if at == nil {
		return false, true
	}
	select {
	case at <- struct{}{}:
		return false, true
	default:
	}
	select {
	case at <- struct{}{}:
		return true, true
	case <-ctx.Done():
		return true, false
	}
}

func (at places) give() {
	if at != nil {
		<-at
	}
}
