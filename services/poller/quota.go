package poller

import (
	"sync"
	"time"
)

// quota bounds the calls to one upstream in any minute, as far as this poller
// made them. What the configuration asks for at its regular pace fits
// (Source.check); this holds back what comes on top: first polls, fail-over of
// other sources' pace, polls after a recovery.
type quota struct {
	mu     sync.Mutex
	most   int // 0: no bound
	counts [quotaSlots]int
	slot   int64 // the newest, in quotaSlot since start
	sum    int
	start  time.Time
}

// A minute, less a second for ticks that come late and the next in time.
const (
	quotaSlot  = 100 * time.Millisecond
	quotaSlots = 590
)

// take counts a call that is about to be made, or says that it must not be.
func (q *quota) take(now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.roll(now)
	if q.most > 0 && q.sum >= q.most {
		return false
	}
	q.counts[q.slot%quotaSlots]++
	q.sum++
	return true
}

// giveBack is for a call that was not made after all.
func (q *quota) giveBack() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := &q.counts[q.slot%quotaSlots]; *n > 0 {
		*n--
		q.sum--
	}
}

// bound changes the bound, of a quota that goes on after a reload.
func (q *quota) bound(most int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.most = most
}

// roll forgets what is older than the window.
func (q *quota) roll(now time.Time) {
	if q.start.IsZero() {
		q.start = now
	}
	slot := max(q.slot, int64(now.Sub(q.start)/quotaSlot))
	for range min(slot-q.slot, quotaSlots) {
		q.slot++
		n := &q.counts[q.slot%quotaSlots]
		q.sum -= *n
		*n = 0
	}
	q.slot = slot
}
