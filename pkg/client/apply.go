package client

import (
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
)

// This file applies the gateway's frames and delivers what they change.

func (l *loop) frame(f *wire.ServerFrame, at time.Time) {
	switch {
	case f.Event != nil:
		l.event(f.Event, at)
	case f.Fresh != nil:
		l.fresh(f.Fresh, at)
	case f.Breaker != nil:
		u := &Breaker{*f.Breaker}
		for _, s := range l.subs {
			if s.accepted && s.coversSource(u.Source) {
				l.deliver(s, u)
			}
		}
	case f.Subscribed != nil:
		l.subscribed(f.ID, f.Subscribed, at)
	case f.Error != nil:
		l.refused(f.ID, f.Error, at)
	case f.Pong != nil:
		l.pong(f.ID, at)
	case f.GoAway != nil:
		l.goAway(f.GoAway, at)
	}
}

func (l *loop) event(ev *wire.Event, at time.Time) {
	if ev.Poll == "" {
		ev.Poll = ev.Topic
	}
	c := l.c
	if !l.room(ev) {
		return
	}
	wanted, answered := false, 0
	for _, s := range l.subs {
		if s.matches(ev.Topic) {
			wanted = true
			if s.answered {
				answered++
			}
		}
	}
	if !wanted {
		return // it was on its way when the subscription ended
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	asOfLocal := c.store.event(at, ev)
	now := time.Now()
	u := &Event{Event: *ev, Epoch: c.store.epoch, Age: now.Sub(asOfLocal)}
	for _, s := range l.subs {
		match := s.matches(ev.Topic)
		s.advance(ev, match, match && answered == 1)
		if match && s.accepted {
			l.deliverEvent(s, u)
		}
	}
	if p := c.store.polls[ev.Poll]; p != nil {
		l.settle(p, now)
	}
}

// deliverEvent delivers an event unless the subscription has seen it.
func (l *loop) deliverEvent(s *Subscription, u *Event) {
	last, was := s.seen[u.Topic]
	switch {
	case was && u.Seq <= last.seq:
		return
	case !was && u.Deleted && u.Phase == wire.Snapshot:
		return
	case was && last.version > 0 && u.Version > last.version+1 && s.opts.Delivery == wire.DeliverAll:
		l.deliver(s, &Gap{Topic: u.Topic, After: last.version, Before: u.Version})
	}
	l.deliver(s, u)
	if u.Deleted {
		delete(s.seen, u.Topic)
	} else {
		s.seen[u.Topic] = seen{u.Seq, u.Version}
	}
}

// advance moves the position to resume from. alone means that no other
// subscription matches the event: it was sent because of this one.
func (s *Subscription) advance(ev *wire.Event, match, alone bool) {
	switch {
	case !s.answered:
	case ev.Phase == wire.Snapshot:
		if !match || s.resumed {
			return // it was sent for another subscription
		}
		s.synced = false // until the next pong: more of the snapshot may follow
		if alone {
			s.posOK = false
		}
	case ev.Phase == wire.Replay:
		if alone { // a replay comes in order: its position holds after a lost connection
			s.pos = max(s.pos, ev.Seq)
		}
	case s.synced || alone:
		// Live events come in the stream's order, whichever subscription they
		// match: everything up to here that this subscription matches has been
		// sent. But its snapshot or replay must be complete first. It is complete
		// before the first live event of its own; for events of other
		// subscriptions only a pong shows it.
		s.pos, s.posOK = max(s.pos, s.base, ev.Seq), s.epoch != ""
	}
}

// room keeps the bound of the maps: it ends a subscription that matches too many
// topics.
func (l *loop) room(ev *wire.Event) bool {
	st, limit := &l.c.store, l.c.opts.MaxTopics
	topicFits := st.topics[ev.Topic] != nil || ev.Deleted || len(st.topics) < limit
	pollFits := st.polls[ev.Poll] != nil || len(st.polls) < limit
	if topicFits && pollFits {
		return true
	}
	l.crowded(func(s *Subscription) bool { return s.matches(ev.Topic) })
	return false
}

func (l *loop) crowded(by func(*Subscription) bool) {
	for _, s := range append([]*Subscription(nil), l.subs...) {
		if by(s) && l.cur != nil {
			l.log.Error("ending a subscription: it matches more topics than the client may hold", "limit", l.c.opts.MaxTopics)
			l.remove(s, ErrTooManyTopics)
		}
	}
}

func (l *loop) fresh(f *event.Freshness, at time.Time) {
	if !l.wanted(func(s *Subscription) bool { return s.coversPoll(f.Poll) }) {
		return
	}
	c := l.c
	if c.store.polls[f.Poll] == nil && len(c.store.polls) >= c.opts.MaxTopics {
		l.crowded(func(s *Subscription) bool { return s.coversPoll(f.Poll) })
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.store.fresh(at, f)
	if p.hold {
		l.settle(p, time.Now())
		return
	}
	l.reschedule(p)
	l.deliverFreshness(p, time.Now())
}

// settle handles what an event or a staged record changes about a poll: it is no
// longer silent, or it is confirmed again. The mutex is held.
func (l *loop) settle(p *poll, now time.Time) {
	if !p.hold {
		l.reschedule(p)
		if p.silent && !now.After(p.rec.deadline) {
			l.deliverFreshness(p, now)
		}
		return
	}
	if p.staged == nil && p.lost {
		return
	}
	for _, s := range l.subs {
		if !s.synced && s.coversPoll(p.rec.Poll) {
			return
		}
	}
	p.hold = false
	if p.staged == nil {
		return
	}
	p.rec, p.staged, p.lost = *p.staged, nil, false
	l.reschedule(p)
	l.deliverFreshness(p, now)
}

// deliverFreshness delivers a poll's freshness. The mutex is held.
func (l *loop) deliverFreshness(p *poll, now time.Time) {
	u := p.update(now)
	p.silent = u.Local
	for _, s := range l.subs {
		if s.accepted && s.coversPoll(u.Poll) {
			l.deliver(s, u)
		}
	}
}

// reschedule sets the next sweep early enough to notice the poll's silence.
func (l *loop) reschedule(p *poll) {
	d := p.rec.until()
	if p.silent || d.IsZero() {
		return
	}
	if l.sweepAt.IsZero() || d.Before(l.sweepAt) {
		l.sweepAt = d
	}
}

// sweep delivers the freshness of polls that became silent and schedules the next
// sweep.
func (l *loop) sweep(now time.Time) {
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	l.sweepAt = time.Time{}
	for _, p := range c.store.polls {
		if p.silentAt(now) {
			l.deliverFreshness(p, now)
		}
		if !p.lost {
			l.reschedule(p)
		}
	}
	if !l.sweepAt.IsZero() && l.sweepAt.Before(now.Add(sweepSpacing)) {
		l.sweepAt = now.Add(sweepSpacing)
	}
}

// lost marks everything stale.
func (l *loop) lost(now time.Time) {
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	l.sweepAt = time.Time{}
	for _, p := range c.store.polls {
		p.staged = nil
		if p.lost {
			continue // not confirmed since the last loss
		}
		p.lost, p.hold = true, true
		l.deliverFreshness(p, now)
		p.silent = false
	}
}

// synced marks the polls as confirmed by this connection, because everything that
// was missed has arrived. It deletes topics that a complete snapshot does not
// hold.
func (l *loop) synced(at time.Time, took time.Duration) {
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	st := &c.store
	st.clock.roundTrip(took)
	for t, e := range st.topics {
		if e.session == st.session || !l.gone(t) {
			continue
		}
		u := &Event{Event: e.ev, Epoch: e.epoch, Age: at.Sub(e.asOfLocal)}
		u.Phase, u.Deleted, u.Data = wire.Snapshot, true, nil
		u.AgeMs = u.Age.Milliseconds()
		delete(st.topics, t)
		for _, s := range l.subs {
			if _, was := s.seen[t]; was && s.matches(t) {
				delete(s.seen, t)
				l.deliver(s, u)
			}
		}
	}
	for _, p := range st.polls {
		if p.hold {
			l.settle(p, at)
		}
	}
}

// gone reports whether a topic that this connection has not mentioned does not
// exist any more.
func (l *loop) gone(t string) bool {
	for _, s := range l.subs {
		if s.matches(t) && (!s.synced || s.resumed) {
			return false
		}
	}
	return true
}
