package config

import (
	"hash/fnv"
	"math/rand/v2"
	"time"
)

const (
	// MaxJitter bounds how late after its slot a tick is, beside interval/50.
	MaxJitter = 100 * time.Millisecond
	// MaxBeat bounds the time from one beat to the next, beside interval/100.
	MaxBeat = 10 * time.Millisecond
	// MaxStart is the span over which first polls are spread.
	MaxStart = time.Second
)

// Schedule says when a poll is due. Its slots are phase + n*interval since the
// Unix epoch. The phase comes from the topic's name, so that every replica has
// the same slots, a restart keeps them, and polls spread over the interval.
type Schedule struct {
	Interval, Phase time.Duration
	share           float64 // where in any span this poll is due: 0 up to 1
	Exact           bool    // no delay, so that the polls of a batch are due at the same time
}

// NewSchedule returns the schedule of a topic; interval is above 0.
func NewSchedule(topic string, interval time.Duration) Schedule {
	h := fnv.New64a()
	h.Write([]byte(topic))
	// FNV alone leaves names that differ in their last letter close together.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	share := float64(x>>11) / (1 << 53)
	return Schedule{
		Interval: interval,
		Phase:    time.Duration(share * float64(interval)).Truncate(time.Millisecond),
		share:    share,
	}
}

// Next returns the first slot after t, by the wall clock.
func (s Schedule) Next(t time.Time) time.Time {
	since := time.Duration(t.UnixNano()) - s.Phase
	return time.Unix(0, int64(since-since%s.Interval+s.Interval+s.Phase)).UTC()
}

// After returns the slot to wait for when the tick of slot done is over and the wall
// clock shows now. It is not done again when the wall clock runs a little slow.
func (s Schedule) After(done, now time.Time) time.Time {
	next := s.Next(now)
	if !next.After(done) && done.Sub(next) < s.Interval {
		next = next.Add(s.Interval)
	}
	return next
}

// Start returns how long the poll waits when all polls would be due now, at start and when
// a breaker closes: 0 up to MaxStart.
func (s Schedule) Start() time.Duration {
	return time.Duration(s.share * float64(min(s.Interval, MaxStart)))
}

// Delay returns how long after its slot a tick is. It is random, so that polls that share
// a slot do not meet at every interval. The tick falls on a beat, which is the same for all
// polls: a machine that wakes up for several polls at once works half as much as one that
// wakes up for each.
func (s Schedule) Delay(slot time.Time) time.Duration {
	if s.Exact {
		return 0
	}
	beat := min(s.Interval/100, MaxBeat)
	toNext := beat - 1 - time.Duration(slot.UnixNano()-1)%beat
	return toNext + beat*rand.N(min(s.Interval/50, MaxJitter)/beat)
}

// NearTick returns the time before a poll's regular tick in which an extra tick is not
// worth its calls.
func NearTick(interval time.Duration) time.Duration { return min(interval/10, MaxStart) }
