package throttle

import (
	"sync"
	"time"
)

// Gate passes at most one occurrence per interval and counts the others. Its
// zero value passes the first one. It may be used by several goroutines.
type Gate struct {
	mu     sync.Mutex
	passed time.Time // when it passed the last one; zero before the first
	n      int       // occurrences since then
}

// Pass counts one occurrence at the time now. It returns 0 while the interval
// every since the last pass is not over. Otherwise it returns the number of
// occurrences since the last pass, this one included. A clock that was set back
// does not close the gate.
func (g *Gate) Pass(now time.Time, every time.Duration) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n++
	if g.holds(now, every) {
		return 0
	}
	n := g.n
	g.n, g.passed = 0, now
	return n
}

// closed reports whether Pass would return 0 at the time now.
func (g *Gate) closed(now time.Time, every time.Duration) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.holds(now, every)
}

// holds reports whether the interval is not over. The caller holds the mutex.
func (g *Gate) holds(now time.Time, every time.Duration) bool {
	since := now.Sub(g.passed)
	return !g.passed.IsZero() && since >= 0 && since < every
}
