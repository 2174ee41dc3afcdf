package gateway

import (
	"sync"
	"time"
)

// sayEvery is how often the log has what may happen to thousands of clients at
// once.
const sayEvery = 10 * time.Second

// A seldom keeps something that happens often from being said as often.
type seldom struct {
	mu   sync.Mutex
	next time.Time
	n    int
}

// may counts one more, and returns how many there were since it was last to be
// said; 0 when it is not to be said now.
func (s *seldom) may(now time.Time, every time.Duration) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	if now.Before(s.next) {
		return 0
	}
	n := s.n
	s.n, s.next = 0, now.Add(every)
	return n
}
