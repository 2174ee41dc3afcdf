package trust

import "time"

// Lag estimates how long a poll's records take to arrive, by the poller's clock
// and the reader's. A record that took longer than the Offset was held up on its
// way, for example by a NATS server that was stopped for a while, and is as much
// older than its arrival. The zero value knows nothing. A Lag is not safe for
// concurrent use.
type Lag struct {
	offset Offset
	last   time.Duration // the last sample
	fence  uint64        // of the poller; another poller has another clock
	made   time.Time     // when the last record was made, by the poller's clock
}

const (
	// ClocksAgree is the most that two clocks are believed to differ until two
	// records show that they differ more: the first record may have been held up.
	ClocksAgree = time.Second
	// sameLag is the most by which two samples differ that show the same offset.
	// Their records must arrive at least twice as long after each other: those that
	// arrive together were held up together.
	sameLag = 50 * time.Millisecond
	// lagDrift is the drift of an Offset of pollers: far more than clocks have.
	lagDrift = 64
)

// Observe takes in a record that was made at the time made by the clock of the
// poller with that fence, and that arrived at the time came by the reader's clock.
func (l *Lag) Observe(made time.Time, fence uint64, came time.Time) {
	sample, passed := came.Sub(made), came.Sub(l.offset.at)
	switch {
	case !l.offset.Known(), fence != l.fence:
		l.offset.set(min(sample, ClocksAgree), came)
	case made.Before(l.made): // the poller's clock was set back
		l.offset.set(sample, came)
	case sample > l.offset.least && (sample-l.last).Abs() < sameLag && passed > 2*sameLag:
		// Two records show the same larger offset: the poller's clock was set.
		l.offset.set(min(sample, l.last), came)
	default:
		l.offset.least += came.Round(0).Sub(l.offset.at.Round(0)) - passed // the reader's clock was set
		l.offset.Observe(sample, came, lagDrift)
	}
	l.last, l.fence, l.made = sample, fence, made
}

// Here returns when, by the reader's clock, the poller's clock showed made. The
// time came is when the reader learnt of made; the result is not later. Before the
// first record the clocks are believed to agree within ClocksAgree.
func (l *Lag) Here(made, came time.Time) time.Time {
	if made.IsZero() {
		return came
	}
	offset := l.offset
	if !offset.Known() {
		offset.least = ClocksAgree
	}
	return came.Add(-offset.Delay(came.Sub(made)))
}

// Ahead returns by how much the poller's clock is ahead of the reader's; 0 when
// it is behind or nothing is known.
func (l *Lag) Ahead() time.Duration { return max(0, -l.offset.least) }
