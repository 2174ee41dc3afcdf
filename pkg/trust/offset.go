package trust

import "time"

// Offset estimates by how much a sender's clock differs from the reader's. A
// sample is the time of receipt by the reader's clock minus the time of sending
// by the sender's. The least sample took the shortest way and is the best
// estimate. A larger one shows how long its message was held up. The zero value
// knows nothing. An Offset is not safe for concurrent use.
type Offset struct {
	least time.Duration
	at    time.Time // of the last sample, by the reader's clock; zero: none
}

// Observe takes in a sample that was received at the time at. The estimate grows
// by 1/drift of the time since the last sample, because clocks drift apart: drift
// must allow more than clocks do.
func (o *Offset) Observe(sample time.Duration, at time.Time, drift int) {
	if o.Known() {
		sample = min(sample, o.least+at.Sub(o.at)/time.Duration(drift))
	}
	o.set(sample, at)
}

// Known reports whether there was a sample.
func (o *Offset) Known() bool { return !o.at.IsZero() }

// Delay returns for how long the message of a sample was held up on its way.
func (o *Offset) Delay(sample time.Duration) time.Duration { return max(0, sample-o.least) }

func (o *Offset) set(least time.Duration, at time.Time) { o.least, o.at = least, at }
