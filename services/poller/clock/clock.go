package clock

import "time"

// Now is time.Now. Tests replace it to set the wall clock.
var Now = time.Now

// maxDrift is how far the wall clock and the monotonic clock may differ before
// WallTime takes it that somebody set the wall clock.
const maxDrift = 100 * time.Millisecond

// WallTime returns at, a time before now, as a record carries it: by the wall clock
// of now, in UTC and whole milliseconds, never later than now. If the wall clock was
// set back since at, the result moves back with it; if it was set forward, it does
// not move. A zero at stays zero.
func WallTime(at, now time.Time) time.Time {
	if at.IsZero() {
		return at
	}
	wall := at.Round(0)
	if passed := now.Add(-now.Sub(at)).Round(0); passed.Before(wall.Add(-maxDrift)) {
		wall = passed
	}
	if wall.After(now.Round(0)) {
		wall = now
	}
	return Stamp(wall)
}

// Anchor returns at, a time from a record, with the monotonic reading that it would
// have if nobody had set the clock since. The result is not later than now. A zero at
// stays zero.
func Anchor(at, now time.Time) time.Time {
	switch {
	case at.IsZero():
		return at
	case at.After(now):
		return now
	}
	return now.Add(at.Sub(now.Round(0)))
}

// Stamp returns t as records carry it: in UTC, cut to whole milliseconds, so that it
// is never later than t.
func Stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// Later returns the later of two times.
func Later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
