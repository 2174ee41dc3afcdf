package gateway

import "time"

// A lag is how long a poller's records take to get here by its clock and ours:
// the least of late, so that it holds what the clocks differ by, and what takes
// longer than that was held back on its way, by a server that stood still, say.
type lag struct {
	least time.Duration
	fence uint64    // of the poller; another one has another clock
	made  time.Time // the last record, by its clock
	came  time.Time // and by ours; zero: none was seen yet
}

// lagLeak is what part of a time the least lag grows in that time: clocks drift
// apart, by far less than this.
const lagLeak = 64

// observe takes in a record that came as it was stored.
func (l *lag) observe(made time.Time, fence uint64, now time.Time) {
	d, passed := now.Sub(made), now.Sub(l.came)
	stepped := now.Round(0).Sub(l.came.Round(0)) - passed // our clock was set
	switch {
	case l.came.IsZero(), fence != l.fence, made.Before(l.made): // the last: its clock was set
		l.least = d
	default:
		l.least = min(d, l.least+stepped+passed/lagLeak)
	}
	l.fence, l.made, l.came = fence, made, now
}

// here is the time on our clock at which the poller's clock showed made: not
// after a time at which that was known to be over.
func (l *lag) here(made, over time.Time) time.Time {
	if l.came.IsZero() || made.IsZero() {
		return over
	}
	if held := over.Sub(made) - l.least; held > 0 {
		return over.Add(-held)
	}
	return over
}
