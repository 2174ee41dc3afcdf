package client

import (
	"time"

	"github.com/pollcast/pollcast/pkg/trust"
)

// clock estimates the clock of one gateway, so that the age of a value is known
// in local, monotonic time. A frame with the times "confirmed at A, D ago" was
// made when the gateway's clock showed A+D. Its sample is the local time since
// start minus A+D.
type clock struct {
	start  time.Time // of the connection, in local time
	offset trust.Offset
	// slack bounds how long the fastest frame was on its way.
	slack time.Duration
}

// drift allows the local clock to run faster than the gateway's by one part in
// 2,000, which is the most that clocks are slewed. Without it a connection that
// lives for weeks would take drift for delay. It hides as small a part of a delay.
const drift = 2000

func newClock(at time.Time, slack time.Duration) clock {
	return clock{start: at, slack: slack}
}

// event returns when, in local time, an event's value was confirmed; the result
// is never too late. at is when its frame was received.
func (c *clock) event(at, asOf time.Time, ageMs int64) time.Time {
	age := time.Duration(min(max(ageMs, 0), int64(trust.AgeLimit/time.Millisecond))) * time.Millisecond
	var delay time.Duration
	if g, ok := unixNano(asOf); ok {
		sample := at.Sub(c.start) - g - age
		// The age is 0 also when the poller's clock runs ahead of the gateway's. Then
		// the frame shows nothing about the gateway's clock.
		if age > 0 {
			c.offset.Observe(sample, at, drift)
		}
		if c.offset.Known() {
			delay = min(c.offset.Delay(sample), trust.AgeLimit)
		}
	}
	return at.Add(-age - delay - c.slack)
}

// local returns when, in local time, the gateway's clock showed g; at most now.
// It returns false when that is not known.
func (c *clock) local(now, g time.Time) (time.Time, bool) {
	n, ok := unixNano(g)
	if !ok || !c.offset.Known() {
		return time.Time{}, false
	}
	ago := c.offset.Delay(now.Sub(c.start) - n)
	return now.Add(-min(ago, trust.AgeLimit) - c.slack), true
}

// roundTrip takes in the time between a request and its answer.
func (c *clock) roundTrip(d time.Duration) { c.slack = min(c.slack, d) }

// unixNano returns t as the time since 1970. ok is false for a time at which no
// value can have been confirmed, such as the zero time.
func unixNano(t time.Time) (d time.Duration, ok bool) {
	if y := t.Year(); y < 1971 || y > 2100 {
		return 0, false
	}
	return time.Duration(t.UnixNano()), true
}
