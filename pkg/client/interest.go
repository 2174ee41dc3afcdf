package client

import (
	"maps"
	"slices"
	"time"

	"github.com/pollcast/pollcast/pkg/wire"
)

// This file adds subscriptions, asks the gateway for them, and removes them.

// join takes in the new subscriptions.
func (l *loop) join() {
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.subs {
		if s.attached || s.closed() {
			continue
		}
		s.attached = true
		l.subs = append(l.subs, s)
		if l.conn != nil {
			l.deliver(s, l.conn)
		}
	}
}

// accept begins a subscription's updates with the values that the client already
// has: a gateway does not repeat what it has sent for another subscription.
func (l *loop) accept(s *Subscription, now time.Time) {
	s.accepted = true
	close(s.ready)
	if l.conn != s.conn {
		l.deliver(s, l.conn)
	}
	st := &l.c.store
	for _, name := range slices.Sorted(maps.Keys(st.polls)) {
		if s.coversPoll(name) {
			f := st.polls[name].now(now)
			f.Changed = true
			l.deliver(s, &f)
		}
	}
	for _, t := range slices.Sorted(maps.Keys(st.topics)) {
		if !s.matches(t) {
			continue
		}
		ev := st.value(st.topics[t], now)
		ev.Phase = wire.Snapshot
		if s.seen[t] = (seen{}); st.topics[t].era == st.era {
			s.seen[t] = seen{ev.Seq, ev.Version}
		}
		l.deliver(s, &ev)
	}
}

// leave removes the subscriptions that were closed, and the topics that no other
// subscription matches.
func (l *loop) leave() {
	for _, s := range slices.Clone(l.subs) {
		if s.closed() {
			l.remove(s, nil)
		}
	}
	c := l.c
	c.mu.Lock()
	var unseen []*Subscription // closed before join took them in
	c.subs = slices.DeleteFunc(c.subs, func(s *Subscription) bool {
		if !s.attached && s.closed() {
			unseen = append(unseen, s)
			return true
		}
		return false
	})
	c.mu.Unlock()
	for _, s := range unseen {
		s.end(nil)
	}
}

// remove ends a subscription.
func (l *loop) remove(s *Subscription, err error) {
	if s.ended {
		return
	}
	l.subs = slices.DeleteFunc(l.subs, func(o *Subscription) bool { return o == s })
	asked := s.answered || s.request != 0
	delete(l.requests, s.request)
	// Undelivered updates must not meet its closed channel.
	l.out = slices.DeleteFunc(l.out, func(d delivery) bool { return d.sub == s })

	c := l.c
	c.mu.Lock()
	c.subs = slices.DeleteFunc(c.subs, func(o *Subscription) bool { return o == s })
	for t := range c.store.topics {
		if s.matches(t) && !l.wanted(func(o *Subscription) bool { return o.matches(t) }) {
			delete(c.store.topics, t)
		}
	}
	for p := range c.store.polls {
		if s.coversPoll(p) && !l.wanted(func(o *Subscription) bool { return o.coversPoll(p) }) {
			delete(c.store.polls, p)
		}
	}
	c.mu.Unlock()
	s.end(err)

	if l.cur == nil || !asked {
		return
	}
	var topics []string
	for _, p := range s.patterns {
		if !l.wanted(func(o *Subscription) bool { return slices.Contains(o.patterns, p) }) {
			topics = append(topics, p)
		}
	}
	if len(topics) > 0 {
		l.lastID++
		if err := l.cur.write(&wire.ClientFrame{ID: l.lastID, Unsubscribe: &wire.Unsubscribe{Topics: topics}}); err != nil {
			l.lose(err, time.Now())
		}
	}
}

func (l *loop) wanted(by func(*Subscription) bool) bool { return slices.ContainsFunc(l.subs, by) }

// ask sends the subscribe frames that are due. When all are answered it sends a
// ping: its pong comes after all the events that they brought.
func (l *loop) ask(now time.Time) error {
	open, waiting := false, false
	for _, s := range l.subs {
		switch {
		case s.request != 0:
			waiting = true
		case s.answered:
			open = open || !s.synced
		case now.Before(s.retryAt):
		default:
			waiting = true
			f := &wire.Subscribe{Topics: s.patterns, Delivery: s.opts.Delivery, MaxHz: s.opts.MaxHz}
			if s.resumes() {
				f.Since = &wire.Since{Seq: s.pos, Epoch: s.epoch}
			}
			asked := l.notOlderThan()
			if asked.Seq > 0 && (f.Since == nil || *f.Since != asked) {
				f.NotOlderThan = &asked
			}
			l.lastID++
			s.request = l.lastID
			l.requests[s.request] = &request{at: now, sub: s, asked: asked}
			if err := l.cur.write(&wire.ClientFrame{ID: s.request, Subscribe: f}); err != nil {
				return err
			}
		}
	}
	if !open || waiting || l.pinged {
		return nil
	}
	l.pinged = true
	l.lastID++
	l.requests[l.lastID] = &request{at: now}
	for _, s := range l.subs {
		if s.answered && !s.synced {
			s.barrier = l.lastID
		}
	}
	return l.cur.write(&wire.ClientFrame{ID: l.lastID, Ping: &wire.Ping{}})
}

// notOlderThan returns the position that a gateway must have reached.
func (l *loop) notOlderThan() wire.Since {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	return wire.Since{Seq: l.c.store.seenSeq, Epoch: l.c.store.epoch}
}

// resumes reports whether to ask for missed events. With DeliverLatest this is so
// only for the first time: later the newest values are enough, and skipping
// leaves no position to resume from.
func (s *Subscription) resumes() bool {
	return s.posOK && (s.opts.Delivery == wire.DeliverAll || !s.accepted)
}

// subscribed handles the answer to a subscribe frame.
func (l *loop) subscribed(id uint64, f *wire.Subscribed, now time.Time) {
	r := l.requests[id]
	if r == nil || r.sub == nil {
		return // the subscription has ended
	}
	delete(l.requests, id)
	s := r.sub
	asked := s.resumes()
	s.request, s.refusals = 0, 0
	s.answered, s.resumed, s.base, s.reason = true, asked && f.Resumed, f.Seq, f.Reason
	complete, reason := s.resumed, s.reason
	for _, o := range l.subs {
		if o == s || !o.answered {
			continue
		}
		if _, _, overlap := o.overlaps(s.patterns); !overlap {
			continue
		}
		if asked && !f.Resumed && f.Reason == "" {
			// The connection has asked for all of it before: nothing can be
			// missing.
			s.resumed, complete = true, true
		}
		if !o.resumed {
			complete, reason = false, o.reason
			break
		}
	}
	l.c.mu.Lock()
	reset := l.c.store.answered(f.Epoch, f.Seq, r.asked)
	l.c.mu.Unlock()
	for _, o := range l.subs {
		if reset || o == s && s.epoch != f.Epoch {
			for t := range o.seen { // sequence numbers and versions start again
				o.seen[t] = seen{}
			}
		}
	}
	s.epoch = f.Epoch
	if !s.resumed {
		s.pos, s.posOK = 0, false
	}
	if !s.accepted {
		l.accept(s, now)
	}
	if s.before && (s.opts.Delivery == wire.DeliverAll || asked) {
		l.deliver(s, &Resumed{Complete: complete, Reason: reason})
	}
}

// refused handles the error that answers a frame.
func (l *loop) refused(id uint64, e *wire.Error, now time.Time) {
	r := l.requests[id]
	switch {
	case id == 0 || r == nil:
		l.log.Warn("gateway reports an error", "code", e.Code, "message", e.Message)
		return
	case r.sub == nil: // the ping
		l.lose(&Error{Code: e.Code, Message: e.Message}, now)
		return
	}
	delete(l.requests, id)
	s := r.sub
	s.request = 0
	if e.Retryable {
		delay := l.c.opts.backoff(s.refusals)
		s.refusals++
		s.retryAt = now.Add(delay)
		l.log.Warn("gateway cannot subscribe now", "code", e.Code, "message", e.Message, "retry_seconds", delay.Seconds())
		if e.Code == wire.CodeUnavailable && !l.wanted(func(o *Subscription) bool { return o.answered }) {
			l.elsewhere(delay, now)
		}
		return
	}
	l.remove(s, &Error{Topics: s.patterns, Code: e.Code, Message: e.Message})
}

// pong marks the subscriptions whose snapshot or replay is complete.
func (l *loop) pong(id uint64, at time.Time) {
	r := l.requests[id]
	if r == nil || r.sub != nil {
		return
	}
	delete(l.requests, id)
	l.pinged = false
	for _, s := range l.subs {
		if s.answered && s.barrier == id {
			s.barrier, s.synced = 0, true
			s.pos, s.posOK = max(s.pos, s.base), s.epoch != ""
		}
	}
	l.synced(at, at.Sub(r.at))
}
