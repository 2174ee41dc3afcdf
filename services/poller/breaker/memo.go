package breaker

import (
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
)

// How circuits survive their poller: every breaker record, and every freshness
// record of a source whose circuits ever had a failure, carries the state of all
// of them, streaks and Retry-After too, and what was spent of maxCallsPerMinute.
// The next owner takes of each circuit what was told last.

// memo is the circuit for its next owner; false when it never had a failure.
func (c *Circuit) Memo() (event.Circuit, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := event.Circuit{Upstream: c.upstream, State: c.state, Failures: c.streak, At: clock.Stamp(c.touched), Changes: c.changes}
	if c.streak > 0 {
		m.Cause = event.Detail(c.cause)
	}
	if c.state == event.Open {
		m.NextProbeAt = clock.Stamp(c.probeAt.Add(time.Millisecond - 1)) // no earlier
	}
	if clock.Now().Before(c.notBefore) {
		m.WaitUntil = clock.Stamp(c.notBefore.Add(time.Millisecond - 1))
	}
	return m, !c.touched.IsZero()
}

// restore is adopt for the circuit that changed.
func (c *Circuit) Restore(b *event.Breaker) {
	if b != nil {
		c.Adopt(event.Circuit{Upstream: b.Upstream, State: b.To, Failures: b.Failures, Cause: b.Cause, At: b.At, NextProbeAt: b.NextProbeAt.Add(ProbeMargin)}, b.At)
	}
}

// adopt gives the circuit the state that a former owner of the source told of,
// unless this process knows something later.
func (c *Circuit) Adopt(m event.Circuit, told time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Upstream != c.upstream || !m.At.After(c.touched) {
		return
	}
	now := clock.Now()
	// What is left of a time, but not more than when it was told, if the clock was
	// set back meanwhile.
	left := func(until time.Time) time.Time {
		return now.Add(min(until.Sub(now), until.Sub(clock.Later(m.At, told))))
	}
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
			c.transition(event.Closed, "recovered")
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
		if latest := now.Add(max(c.rule.OpenFor+2*ProbeMargin, maxRetryAfter)); c.probeAt.After(latest) {
			c.probeAt = latest // it was opened under another configuration
		}
	}
	c.state = event.Open
	c.generation++
	c.changedAt, c.touched, c.changes = at, at, m.Changes
}
