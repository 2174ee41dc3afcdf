package breaker

import (
	"slices"
	"sync"
	"time"
)

// quota bounds the calls to one upstream in any minute, whoever owned the source
// then: freshness records tell how many there were (handover.go). What the configuration asks for at its regular pace fits
// (Source.check); this holds back what comes on top: first polls, fail-over of
// other sources' pace, polls after a recovery.
type Quota struct {
	mu     sync.Mutex
	Limit  int // 0: no bound
	counts [quotaSlots]int
	slot   int64 // the newest, in quotaSlot since start; no older one is negative
	sum    int
	start  time.Time
}

// A minute, less a second for ticks that come late and the next in time.
const (
	quotaSlot  = 100 * time.Millisecond
	quotaSlots = 590
	perSecond  = int64(time.Second / quotaSlot)
)

// take counts a call that is about to be made, or says that it must not be.
func (q *Quota) Take(now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.roll(now)
	if q.Limit > 0 && q.sum >= q.Limit {
		return false
	}
	q.counts[q.slot%quotaSlots]++
	q.sum++
	return true
}

// giveBack is for a call that was not made after all.
func (q *Quota) GiveBack() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := &q.counts[q.slot%quotaSlots]; *n > 0 {
		*n--
		q.sum--
	}
}

// bound changes the bound, of a quota that goes on after a reload.
func (q *Quota) SetLimit(most int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.Limit = most
}

// spent is how many calls there were in each of the last seconds, the latest
// first, without zeros at the end; nil if there is no bound.
func (q *Quota) Spent(now time.Time) []int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.Limit == 0 {
		return nil
	}
	q.roll(now)
	all := q.seconds()
	last := len(all)
	for last > 0 && all[last-1] == 0 {
		last--
	}
	return slices.Clone(all[:last])
}

// learn counts what was spent before a time that is age ago, as far as this
// quota does not know it.
func (q *Quota) Learn(now time.Time, age time.Duration, spent []int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.roll(now)
	known := q.seconds()
	for i, n := range spent {
		second := i + int(max(0, age)/time.Second)
		if second >= len(known) {
			return
		}
		if more := n - known[second]; more > 0 {
			q.counts[(q.slot-int64(second)*perSecond)%quotaSlots] += more
			q.sum += more
		}
	}
}

// seconds sums the slots, the latest second first.
func (q *Quota) seconds() (all [quotaSlots / perSecond]int) {
	for i := range int64(quotaSlots) {
		all[i/perSecond] += q.counts[(q.slot-i)%quotaSlots]
	}
	return all
}

// roll forgets what is older than the window.
func (q *Quota) roll(now time.Time) {
	if q.start.IsZero() {
		q.start, q.slot = now.Add(-quotaSlots*quotaSlot), quotaSlots
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
