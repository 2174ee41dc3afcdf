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

// Pace says how the calls of one tick share its time. A tick asks each upstream
// of the source at most once and then, after pauses, those again that failed.
type Pace struct {
	budget    time.Duration // of the tick: the poll's timeout
	Longest   time.Duration // of one call; 0: its share of the budget
	upstreams int
	Retries   int
	exact     bool // pauses without jitter: the calls of a batch meet again
}

// NewPace returns the pace of poll p of source s, both with their defaults.
func NewPace(s Source, p Poll) Pace {
	return Pace{budget: p.Timeout, Longest: s.AttemptTimeout, upstreams: max(1, len(s.Upstreams)), Retries: s.Retries, exact: s.Batch}
}

// Calls returns the most calls that a tick makes.
func (c Pace) Calls() int { return c.upstreams + c.Retries }

// pause returns the longest pause before the n-th retry, counted from 1.
func (c Pace) pause(n int) time.Duration { return min(longestPause, c.budget/16) << (n - 1) }

// Jittered returns a random pause before the n-th retry, from half of pause to all of it;
// exactly pause for a source that batches.
func (c Pace) Jittered(n int) time.Duration {
	d := c.pause(n)
	if half := d / 2; !c.exact && half > 0 {
		d = half + rand.N(half)
	}
	return d
}

// Pauses returns the longest time that all pauses from the n-th on take together.
func (c Pace) Pauses(n int) (sum time.Duration) {
	for ; n <= c.Retries; n++ {
		sum += c.pause(n)
	}
	return sum
}

// share returns the time that each call has at least if the tick makes all of them; with
// attemptTimeout it is the most.
func (c Pace) share() time.Duration {
	if c.Longest > 0 {
		return min(c.Longest, c.budget)
	}
	return (c.budget - c.Pauses(1)) / time.Duration(c.Calls())
}

// fits reports whether every call of a tick has its time, whatever the others do. Without
// retries a tick ends when its time does, even if it has not asked all upstreams.
func (c Pace) fits() bool {
	least := max(c.Longest, MinTimeout)
	return c.Retries == 0 || c.Pauses(1)+time.Duration(c.Calls())*least <= c.budget
}

// Tick returns the longest time that a tick can take.
func (c Pace) Tick() time.Duration {
	if c.Longest == 0 {
		return c.budget // the last call has what is left
	}
	return min(c.budget, c.Pauses(1)+time.Duration(c.Calls())*c.Longest)
}

// reach returns how many upstreams a tick asks when none answers.
func (c Pace) reach() int {
	if c.Longest == 0 {
		return c.upstreams
	}
	return min(c.upstreams, max(1, int((c.budget+c.Longest-1)/c.Longest)))
}
