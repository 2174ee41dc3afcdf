package client

import "time"

// clock follows the clock of one gateway, so that the age of what it sends is
// known in local, monotonic time. A frame that says "confirmed at A, D ago" was
// made when the gateway's clock said A+D. The frame that came fastest tells
// best how the two clocks differ; every other one shows by comparison how long
// it was queued: in the gateway, on the way or behind a slow reader.
type clock struct {
	start time.Time // local; of the connection
	known bool
	// diff is local minus gateway, in nanoseconds, as found at `at`.
	diff int64
	at   time.Time
	// slack bounds how long the fastest frame was on its way.
	slack time.Duration
}

// ageLimit bounds ages; what is beyond is a mistake of some clock.
const ageLimit = 100 * 365 * 24 * time.Hour

// drift is how much faster than the gateway's clock the local one may run: one
// part in 2,000, which is as much as clocks are slewed. Without it a connection
// that lives for weeks would take drift for delay. What it hides of a delay is
// as small a part of the time since the last event.
const drift = 2000

func newClock(at time.Time, slack time.Duration) clock {
	return clock{start: at, at: at, slack: slack}
}

// event returns when, in local time, an event's value was confirmed: never
// later than it was. at is when its frame was received.
func (c *clock) event(at, asOf time.Time, ageMs int64) time.Time {
	age := time.Duration(min(max(ageMs, 0), int64(ageLimit/time.Millisecond))) * time.Millisecond
	var delay time.Duration
	if g, ok := unixNano(asOf); ok {
		sample := int64(at.Sub(c.start)) - g - int64(age)
		// An age of 0 may be one that would be negative: the poller's clock runs
		// ahead of the gateway's. It says nothing about the gateway's clock.
		if age > 0 {
			c.observe(at, sample)
		}
		if c.known {
			delay = min(max(time.Duration(sample-c.diff), 0), ageLimit)
		}
	}
	return at.Add(-age - delay - c.slack)
}

func (c *clock) observe(at time.Time, sample int64) {
	allowed := c.diff + int64(at.Sub(c.at))/drift
	if !c.known || sample < allowed {
		allowed = sample
	}
	c.known, c.diff, c.at = true, allowed, at
}

// local returns when, in local time, the gateway's clock said g; at most now.
func (c *clock) local(now, g time.Time) (time.Time, bool) {
	n, ok := unixNano(g)
	if !ok || !c.known {
		return time.Time{}, false
	}
	ago := max(int64(now.Sub(c.start))-n-c.diff, 0)
	return now.Add(-min(time.Duration(ago), ageLimit) - c.slack), true
}

// roundTrip tells how long a question and its answer took.
func (c *clock) roundTrip(d time.Duration) { c.slack = min(c.slack, d) }

// unixNano is t in nanoseconds; ok is false outside the years in which a value
// can have been confirmed, among them the zero time.
func unixNano(t time.Time) (int64, bool) {
	if y := t.Year(); y < 1971 || y > 2100 {
		return 0, false
	}
	return t.UnixNano(), true
}
