package clock

import (
	"time"
)

// Records carry wall-clock times. The wall clock can be set, forwards and back,
// while a poller runs or between two lives of it; nothing here may then poll in
// a burst, wait for an hour, or call a value younger than it is. So what is
// counted in this process is counted by the monotonic clock, which time.Now
// carries along, and asOf, which is told, is turned back with the wall clock.

// clock is time.Now. Tests set its wall clock.
var Now = time.Now

// maxDrift is how far the two clocks may come apart without the wall clock
// having been set.
const maxDrift = 100 * time.Millisecond

// told is at, a time of the past, by the wall clock as it is at now. If that
// was set back since, at itself would lie too close, or ahead.
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

// anchor gives a time out of a record the monotonic reading it would have, had
// no clock been set since. It is not later than now.
func Anchor(at, now time.Time) time.Time {
	switch {
	case at.IsZero():
		return at
	case at.After(now):
		return now
	}
	return now.Add(at.Sub(now.Round(0)))
}

// stamp is a time as records carry it: UTC, in milliseconds, never later than t.
func Stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

func Later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
