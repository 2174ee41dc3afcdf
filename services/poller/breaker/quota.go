package breaker

import (
	"slices"
	"sync"
	"time"
)

// Quota bounds the calls to one upstream in any minute. Its methods may be called from
// several goroutines. The zero Quota has no bound.
//
// The check of the configuration makes sure that the regular polls fit. Quota holds back
// what comes on top: first polls, fail-over, polls after a recovery. The bound holds across
// a change of the lease holder: a provider that bans who exceeds its quota does not care
// which poller called. So records carry Spent, and the next holder learns it (Learn).
type Quota struct {
	mu     sync.Mutex
	Limit  int             // calls a minute; 0: no bound. SetLimit changes it once calls are counted
	counts [quotaSlots]int // calls by slot, as a ring
	slot   int64           // the newest, counted from start; quotaSlots or more
	sum    int             // of counts
	start  time.Time
}

// The window is a minute less a second: one tick may come late, and the next in time.
const (
	quotaSlot  = 100 * time.Millisecond
	quotaSlots = 590
	perSecond  = int64(time.Second / quotaSlot) // slots
)

// Take counts a call that the caller is about to make. False: the caller must not make it.
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

// GiveBack undoes the last Take, for a call that was not made.
func (q *Quota) GiveBack() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := &q.counts[q.slot%quotaSlots]; *n > 0 {
		*n--
		q.sum--
	}
}

// SetLimit changes the bound at a reload and keeps the counts; 0 removes it.
func (q *Quota) SetLimit(limit int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.Limit = limit
}

// Spent returns the number of calls in each of the last 59 seconds, the latest first,
// without zeros at the end; nil if there is no bound.
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

// Learn counts calls of a former lease holder: spent is what its Spent returned age ago.
// A second counts with the larger number of the two, so that Learn may be called again.
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

// seconds returns the calls in each second, the latest first.
func (q *Quota) seconds() (all [quotaSlots / perSecond]int) {
	for i := range int64(quotaSlots) {
		all[i/perSecond] += q.counts[(q.slot-i)%quotaSlots]
	}
	return all
}

// roll moves the window to now, and forgets the calls before it.
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
