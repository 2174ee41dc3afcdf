package record

import (
	"time"
)

// idle is a wait that does not end by itself.
const Idle = time.Hour

// backoff spaces the attempts to publish while they fail: 250 ms, doubled up
// to 4 s. The zero value is ready.
type Backoff struct {
	At       time.Time // not before
	n        int       // failures in a row
	stumbles int       // attempts in a row that only found the stream changed
}

func (b *Backoff) Failing() bool { return b.n > 0 }

func (b *Backoff) Fail(now time.Time) {
	b.At = now.Add(250 * time.Millisecond << min(b.n, 4))
	b.n++
}

// stumble is no failure at first: the next attempt knows better.
func (b *Backoff) Stumble(now time.Time) {
	if b.stumbles++; b.stumbles > 3 {
		b.Fail(now)
	}
}

// before is the earlier of at and the next attempt, if there is one to wait for.
func (b *Backoff) Before(at, now time.Time) time.Time {
	if b.At.After(now) && b.At.Before(at) {
		return b.At
	}
	return at
}

// left is how long to wait; idle when there is nothing to wait for.
func (b *Backoff) Left(now time.Time) time.Duration {
	if d := b.At.Sub(now); d > 0 {
		return d
	}
	return Idle
}
