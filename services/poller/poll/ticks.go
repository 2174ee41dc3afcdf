package poll

import (
	"time"

	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/config"
)

// ticks says when a poll asks next.
type ticks struct {
	slot    time.Time // of the next aligned tick, by the wall clock
	at      time.Time // when that is, by the monotonic clock
	extraAt time.Time // of a tick that is not aligned: the first, or after a recovery; zero: none
	probeAt time.Time // of a tick for the next probe only; zero: none
	triedAt time.Time // when the last such tick was
	calling bool      // a round of calls is under way
	starved bool      // the process stood still during the last round, which counted as none
	skipped uint64    // ticks without a call
}

// tickKind is what a tick is for.
type tickKind int

const (
	noTick      tickKind = iota
	alignedTick          // the poll's own slot
	extraTick            // not aligned: the first, or after a recovery
	probeTick            // to probe an upstream whose circuit is open, nothing else
)

// probePause is the least time between two ticks for a probe.
const probePause = 50 * time.Millisecond

// aim chooses the next aligned slot.
func (t *ticks) aim(s config.Schedule, now time.Time) {
	t.slot = s.After(t.slot, now)
	t.at = now.Add(t.slot.Sub(now) + s.Delay(t.slot))
}

// resume begins a tenure, with a tick soon, unless the slots go on.
func (t *ticks) resume(s config.Schedule, now time.Time, goOn bool) {
	t.calling = false
	t.aim(s, now)
	t.extraAt = time.Time{}
	if !goOn {
		t.extraAt = now.Add(s.Start())
	}
}

// inherit takes over the count and, with the same interval, the slot.
func (t *ticks) inherit(old *ticks, sameInterval bool) {
	t.skipped = old.skipped
	if sameInterval {
		t.slot = old.slot
	}
}

// due is when the next tick of any kind is.
func (t *ticks) due() time.Time {
	due := t.at
	for _, at := range []time.Time{t.extraAt, t.probeAt} {
		if !at.IsZero() && at.Before(due) {
			due = at
		}
	}
	return due
}

// take says what is due now, if anything, its slot, and how many ticks were missed. A
// tick while a call is under way, or that comes whole intervals late, is missed.
func (t *ticks) take(s config.Schedule, now time.Time) (kind tickKind, slot time.Time, missed uint64) {
	// Not aligned, so that its event is not taken for that of another replica's tick.
	slot = clock.Stamp(now)
	switch {
	case !now.Before(t.at):
		kind, slot = alignedTick, t.slot
		missed = uint64(now.Sub(t.at) / s.Interval)
		if t.calling {
			missed++
		}
		t.aim(s, now)
		t.extraAt = time.Time{}
	case !t.extraAt.IsZero() && !now.Before(t.extraAt):
		t.extraAt = time.Time{}
		if t.at.Sub(now) >= config.NearTick(s.Interval) { // otherwise that one will do
			kind = extraTick
		}
	case !t.probeAt.IsZero() && !now.Before(t.probeAt):
		kind, t.probeAt, t.triedAt = probeTick, time.Time{}, now
	}
	if t.calling {
		kind = noTick
	}
	return kind, slot, missed
}

// probe plans a tick for the probe that is due at a time. While another upstream
// answers (closed), a probe that hangs must not take the time of the poll's
// own tick, where longest is how long a tick takes at most. That tick is then the
// probe, and fails over.
func (t *ticks) probe(at, now time.Time, closed bool, longest time.Duration) {
	// A probe that was due and could not be made is not tried in a loop.
	t.probeAt = clock.Later(at, t.triedAt.Add(probePause))
	if closed && clock.Later(t.probeAt, now).Add(longest).After(t.at) {
		t.probeAt = time.Time{}
	}
}
