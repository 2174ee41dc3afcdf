package gateway

import "time"

// A lag is how long a poller's records take to get here by its clock and ours.
// The least of late holds what the clocks differ by; what takes longer was held
// back on its way, by a NATS server that stood still, say, and is so much older
// than its coming here.
type lag struct {
	least, last time.Duration
	fence       uint64    // of the poller; another one has another clock
	made        time.Time // the last record, by its clock
	came        time.Time // and by ours; zero: none was seen yet
}

const (
	// clocksAgree is what clocks are thought to differ by at most, until two
	// records in a row say the same: the first may have been held back itself.
	clocksAgree = time.Second
	// sameLag is what two lags may differ by that are the same, and half the time
	// between their records' coming: what comes at once was held back at once.
	sameLag = 50 * time.Millisecond
	// lagLeak is what part of a time the least lag grows in that time: clocks
	// drift apart, by far less than this.
	lagLeak = 64
	// sayAheadEvery is how often the log has that a clock is ahead.
	sayAheadEvery = 10 * time.Minute
)

// observe takes in a record.
func (l *lag) observe(made time.Time, fence uint64, came time.Time) {
	d, passed := came.Sub(made), came.Sub(l.came)
	switch {
	case l.came.IsZero(), fence != l.fence:
		l.least = min(d, clocksAgree)
	case made.Before(l.made): // its clock was set
		l.least = d
	case d > l.least && (d-l.last).Abs() < sameLag && passed > 2*sameLag:
		l.least = min(d, l.last)
	default:
		stepped := came.Round(0).Sub(l.came.Round(0)) - passed // our clock was set
		l.least = min(d, l.least+stepped+passed/lagLeak)
	}
	l.last, l.fence, l.made, l.came = d, fence, made, came
}

// here is when, by our clock, the poller's clock showed made, which was known
// at came. Before any record was seen the clocks are thought to agree: what comes
// first may have been held back.
func (l *lag) here(made, came time.Time) time.Time {
	if made.IsZero() {
		return came
	}
	least := l.least
	if l.came.IsZero() {
		least = clocksAgree
	}
	return came.Add(-max(0, came.Sub(made)-least))
}
