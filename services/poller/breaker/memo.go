package breaker

import (
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
)

// Memo returns the circuit's state for the next holder of the lease; false if it never
// changed. Every breaker record carries the memos of all circuits of the source, with
// the calls spent of maxCallsPerMinute, and so does every freshness record once a circuit
// had a failure. The next holder adopts the newest memo of each circuit.
func (c *Circuit) Memo() (event.Circuit, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := event.Circuit{
		Upstream: c.upstream, State: c.state, Failures: c.streak, At: clock.Stamp(c.touched), Changes: c.changes,
	}
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

// Restore is Adopt for the circuit whose transition b is, from a record without memos;
// nil does nothing.
func (c *Circuit) Restore(b *event.Breaker) {
	if b != nil {
		c.Adopt(event.Circuit{
			Upstream: b.Upstream, State: b.To, Failures: b.Failures, Cause: b.Cause, At: b.At,
			NextProbeAt: b.NextProbeAt.Add(ProbeMargin),
		}, b.At)
	}
}

// Adopt gives the circuit the state m that a former holder of the lease published at
// published, unless m is another upstream's or this process knows a later state.
func (c *Circuit) Adopt(m event.Circuit, published time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Upstream != c.upstream || !m.At.After(c.touched) {
		return
	}
	now := clock.Now()
	// remaining is the time until a time of the memo, counted from now. If the clock
	// was set back meanwhile, it is not longer than it was when the memo was published.
	remaining := func(until time.Time) time.Time {
		return now.Add(min(until.Sub(now), until.Sub(clock.Later(m.At, published))))
	}
	if m.WaitUntil.After(now) {
		c.notBefore = remaining(m.WaitUntil)
	}
	at := m.At
	if at.After(now) { // the clock was set back
		at = now
	}
	if m.State == event.Closed {
		if c.state != event.Closed {
			c.streak, c.notBefore = 0, time.Time{}
			c.gate.close()
			c.transition(event.Closed, "recovered")
		}
		// With this rule so many failures may open the circuit; then the next failure does.
		c.streak, c.cause, c.touched, c.changes = min(m.Failures, c.rule.Failures-1), m.Cause, at, m.Changes
		return
	}
	c.gate.report("failure", now)
	if !c.gate.isOpen() && !c.gate.trip() {
		return
	}
	c.streak, c.cause = m.Failures, m.Cause
	// A probe under way ended with its poller: the next call is the probe.
	c.probeAt = now
	if m.State == event.Open && m.NextProbeAt.After(now) {
		c.probeAt = remaining(m.NextProbeAt)
		if latest := now.Add(max(c.rule.OpenFor+2*ProbeMargin, maxRetryAfter)); c.probeAt.After(latest) {
			c.probeAt = latest // another configuration opened it
		}
	}
	c.state = event.Open
	c.generation++
	c.changedAt, c.touched, c.changes = at, at, m.Changes
}
