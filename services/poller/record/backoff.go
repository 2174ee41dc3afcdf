package record

import "time"

// Never is a wait that does not end by itself.
const Never = time.Hour

// Backoff spaces attempts to publish while they fail: 250 ms, doubled up to 4 s. The
// zero value is ready.
type Backoff struct {
	notBefore time.Time
	failures  int // in a row
	repeats   int // attempts in a row that only found that the stream has changed
}

// Failing says that the last attempt failed.
func (b *Backoff) Failing() bool { return b.failures > 0 }

// Fail notes a failure.
func (b *Backoff) Fail(now time.Time) {
	b.notBefore = now.Add(250 * time.Millisecond << min(b.failures, 4))
	b.failures++
}

// Repeat notes an attempt that found the stream changed. The next attempt knows better,
// so that only the fourth in a row is a failure.
func (b *Backoff) Repeat(now time.Time) {
	if b.repeats++; b.repeats > 3 {
		b.Fail(now)
	}
}

// Hurry allows an attempt now.
func (b *Backoff) Hurry() { b.notBefore = time.Time{} }

// Before is the earlier of at and the next attempt, if one waits.
func (b *Backoff) Before(at, now time.Time) time.Time {
	if b.notBefore.After(now) && b.notBefore.Before(at) {
		return b.notBefore
	}
	return at
}

// Wait is how long to wait for the next attempt; Never when none waits.
func (b *Backoff) Wait(now time.Time) time.Duration {
	if d := b.notBefore.Sub(now); d > 0 {
		return d
	}
	return Never
}
