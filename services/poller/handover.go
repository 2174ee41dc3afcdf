package poller

import (
	"time"

	"github.com/pollcast/pollcast/pkg/event"
)

// How circuits survive their poller: every breaker record, and every freshness
// record of a source whose circuits ever had a failure, carries the state of all
// of them, streaks and Retry-After too, and what was spent of maxCallsPerMinute.
// The next owner takes of each circuit what was told last.

// memo is the circuit for its next owner; false when it never had a failure.
func (c *circuit) memo() (event.Circuit, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := event.Circuit{Upstream: c.upstream, State: c.state, Failures: c.streak, At: stamp(c.touched), Changes: c.changes}
	if c.streak > 0 {
		m.Cause = event.Detail(c.cause)
	}
	if c.state == event.Open {
		m.NextProbeAt = stamp(c.probeAt.Add(time.Millisecond - 1)) // no earlier
	}
	if clock().Before(c.notBefore) {
		m.WaitUntil = stamp(c.notBefore.Add(time.Millisecond - 1))
	}
	return m, !c.touched.IsZero()
}

// circuits are all that have something to say.
func (all *upstreams) circuits() (memos []event.Circuit) {
	for _, u := range all.list {
		m, ok := u.circuit.memo()
		m.Calls = u.quota.spent(clock())
		if ok || len(m.Calls) > 0 {
			memos = append(memos, m)
		}
	}
	return memos
}

// eased says that a streak which a record told of is over, without which the
// record would open a circuit too early one day. (That a streak grew is told by
// the poll whose call failed.)
func (all *upstreams) eased(told []event.Circuit) bool {
	for _, m := range told {
		if m.State != event.Closed || m.Failures == 0 {
			continue
		}
		for _, u := range all.list {
			if u.name == m.Upstream && u.circuit.look().streak < m.Failures {
				return true
			}
		}
	}
	return false
}

// handedOver is a record of the source that tells of its circuits.
type handedOver struct {
	circuits []event.Circuit
	fence    uint64    // under which it was published
	at       time.Time // when it was made
}

// after says that a record was published later than another, by the fence and then
// by the time.
func (r handedOver) after(other handedOver) bool {
	return r.fence > other.fence || r.fence == other.fence && r.at.After(other.at)
}

// restore takes up what the last owner left in the stream: freshness records of the
// source's polls, and the last transition with what it tells of the circuits.
func (all *upstreams) restore(fresh []handedOver, transition *event.Breaker, circuits []event.Circuit) {
	for _, u := range all.list {
		// Not by time: the clock may have been set between two owners.
		var last event.Circuit
		var of handedOver
		look := func(r handedOver) {
			for _, m := range r.circuits {
				if m.Upstream != u.name || r.fence < of.fence || r.fence == of.fence && m.Changes < last.Changes {
					continue
				}
				if r.fence > of.fence || m.Changes > last.Changes || r.at.After(of.at) {
					last, of = m, r
				}
			}
		}
		for _, r := range fresh {
			look(r)
		}
		if transition != nil {
			look(handedOver{circuits, transition.Fence, transition.At})
		}
		if last.Upstream == "" {
			u.circuit.restore(transition) // of a version that told no more
		}
		u.circuit.adopt(last, of.at)
		u.restoreQuota(fresh)
	}
}

// restoreQuota counts what the last owner has asked, as its latest record tells
// that tells of it: the last word on a poll that was taken out does not.
func (u *upstream) restoreQuota(fresh []handedOver) {
	var last handedOver
	var calls []int
	for _, r := range fresh {
		for _, m := range r.circuits {
			if m.Upstream == u.name && len(m.Calls) > 0 && (calls == nil || r.after(last)) {
				last, calls = r, m.Calls
			}
		}
	}
	if len(calls) > 0 {
		now := clock()
		u.quota.learn(now, now.Sub(last.at), calls)
	}
}

// restore is adopt for the circuit that changed.
func (c *circuit) restore(b *event.Breaker) {
	if b != nil {
		c.adopt(event.Circuit{Upstream: b.Upstream, State: b.To, Failures: b.Failures, Cause: b.Cause, At: b.At, NextProbeAt: b.NextProbeAt.Add(probeMargin)}, b.At)
	}
}

// adopt gives the circuit the state that a former owner of the source told of,
// unless this process knows something later.
func (c *circuit) adopt(m event.Circuit, told time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Upstream != c.upstream || !m.At.After(c.touched) {
		return
	}
	now := clock()
	// What is left of a time, but not more than when it was told, if the clock was
	// set back meanwhile.
	left := func(until time.Time) time.Time { return now.Add(min(until.Sub(now), until.Sub(later(m.At, told)))) }
	if m.WaitUntil.After(now) {
		c.notBefore = left(m.WaitUntil)
	}
	at := m.At
	if at.After(now) { // it was set back
		at = now
	}
	if m.State == event.Closed {
		if c.state != event.Closed {
			c.streak, c.notBefore = 0, time.Time{}
			c.closeHystrix()
			c.turn(event.Closed, "recovered")
		}
		// As many may be enough by now to open it; the next failure does.
		c.streak, c.cause, c.touched, c.changes = min(m.Failures, c.rule.Failures-1), m.Cause, at, m.Changes
		return
	}
	c.report("failure", now)
	if !c.hystrix.IsOpen() && !c.trip() {
		return
	}
	c.streak, c.cause = m.Failures, m.Cause
	// A probe that was out went down with its poller: the next call is it.
	c.probeAt = now
	if m.State == event.Open && m.NextProbeAt.After(now) {
		c.probeAt = left(m.NextProbeAt)
		if latest := now.Add(max(c.rule.OpenFor+2*probeMargin, maxRetryAfter)); c.probeAt.After(latest) {
			c.probeAt = latest // it was opened under another configuration
		}
	}
	c.state = event.Open
	c.generation++
	c.changedAt, c.touched, c.changes = at, at, m.Changes
}
