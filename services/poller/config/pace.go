package config

import (
	"math/rand/v2"
	"time"
)

const (
	// MaxRetries bounds Source.Retries.
	MaxRetries = 5
	// longestPause is the longest first pause before a retry; each later one is
	// twice as long.
	longestPause = 100 * time.Millisecond
)

// pace says how the calls of one tick share its time. A tick asks each upstream
// of the source at most once and then, after pauses, those again that failed.
type Pace struct {
	budget    time.Duration // of the tick: the poll's timeout
	Longest   time.Duration // of one call; 0: its share of the budget
	upstreams int
	Retries   int
	exact     bool // pauses without jitter: the calls of a batch meet again
}

func NewPace(s Source, p Poll) Pace {
	return Pace{budget: p.Timeout, Longest: s.AttemptTimeout, upstreams: max(1, len(s.Upstreams)), Retries: s.Retries, exact: s.Batch}
}

// calls is the most that a tick makes.
func (c Pace) Calls() int { return c.upstreams + c.Retries }

// pause is the longest time before the n-th retry, counted from 1.
func (c Pace) pause(n int) time.Duration { return min(longestPause, c.budget/16) << (n - 1) }

// jittered is a pause between a half and the whole of that.
func (c Pace) Jittered(n int) time.Duration {
	d := c.pause(n)
	if half := d / 2; !c.exact && half > 0 {
		d = half + rand.N(half)
	}
	return d
}

// pauses is the longest that all pauses from the n-th on take together.
func (c Pace) Pauses(n int) (sum time.Duration) {
	for ; n <= c.Retries; n++ {
		sum += c.pause(n)
	}
	return sum
}

// share is the time that each call has if all of them are made, at least, or
// with attemptTimeout at most.
func (c Pace) share() time.Duration {
	if c.Longest > 0 {
		return min(c.Longest, c.budget)
	}
	return (c.budget - c.Pauses(1)) / time.Duration(c.Calls())
}

// fits says that every call of the tick has its time, whatever the others do.
// Without retries a tick ends when its time does, whoever was not asked yet.
func (c Pace) fits() bool {
	least := max(c.Longest, MinTimeout)
	return c.Retries == 0 || c.Pauses(1)+time.Duration(c.Calls())*least <= c.budget
}

// tick is the longest that one can take.
func (c Pace) Tick() time.Duration {
	if c.Longest == 0 {
		return c.budget // the last call has what is left
	}
	return min(c.budget, c.Pauses(1)+time.Duration(c.Calls())*c.Longest)
}

// reach is how many upstreams a tick gets to when none answers.
func (c Pace) reach() int {
	if c.Longest == 0 {
		return c.upstreams
	}
	return min(c.upstreams, max(1, int((c.budget+c.Longest-1)/c.Longest)))
}
