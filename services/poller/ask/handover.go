package ask

import (
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
)

// circuits are all that have something to say.
func (all *Upstreams) Memos() (memos []event.Circuit) {
	for _, u := range all.List {
		m, ok := u.Circuit.Memo()
		m.Calls = u.Quota.Spent(clock.Now())
		if ok || len(m.Calls) > 0 {
			memos = append(memos, m)
		}
	}
	return memos
}

// eased says that a streak which a record told of is over, without which the
// record would open a circuit too early one day. (That a streak grew is told by
// the poll whose call failed.)
func (all *Upstreams) Eased(told []event.Circuit) bool {
	for _, m := range told {
		if m.State != event.Closed || m.Failures == 0 {
			continue
		}
		for _, u := range all.List {
			if u.Name == m.Upstream && u.Circuit.Snapshot().Streak < m.Failures {
				return true
			}
		}
	}
	return false
}

// handedOver is a record of the source that tells of its circuits.
type Record struct {
	Circuits []event.Circuit
	Fence    uint64    // under which it was published
	At       time.Time // when it was made
}

// after says that a record was published later than another, by the fence and then
// by the time.
func (r Record) laterThan(other Record) bool {
	return r.Fence > other.Fence || r.Fence == other.Fence && r.At.After(other.At)
}

// restore takes up what the last owner left in the stream: freshness records of the
// source's polls, and the last transition with what it tells of the circuits.
func (all *Upstreams) Restore(fresh []Record, transition *event.Breaker, circuits []event.Circuit) {
	for _, u := range all.List {
		// Not by time: the clock may have been set between two owners.
		var last event.Circuit
		var of Record
		look := func(r Record) {
			for _, m := range r.Circuits {
				if m.Upstream != u.Name || r.Fence < of.Fence || r.Fence == of.Fence && m.Changes < last.Changes {
					continue
				}
				if r.Fence > of.Fence || m.Changes > last.Changes || r.At.After(of.At) {
					last, of = m, r
				}
			}
		}
		for _, r := range fresh {
			look(r)
		}
		if transition != nil {
			look(Record{circuits, transition.Fence, transition.At})
		}
		if last.Upstream == "" {
			u.Circuit.Restore(transition) // of a version that told no more
		}
		u.Circuit.Adopt(last, of.At)
		u.restoreQuota(fresh)
	}
}

// restoreQuota counts what the last owner has asked, as its latest record tells
// that tells of it: the last word on a poll that was taken out does not.
func (u *Upstream) restoreQuota(fresh []Record) {
	var last Record
	var calls []int
	for _, r := range fresh {
		for _, m := range r.Circuits {
			if m.Upstream == u.Name && len(m.Calls) > 0 && (calls == nil || r.laterThan(last)) {
				last, calls = r, m.Calls
			}
		}
	}
	if len(calls) > 0 {
		now := clock.Now()
		u.Quota.Learn(now, now.Sub(last.At), calls)
	}
}
