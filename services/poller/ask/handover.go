package ask

import (
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/breaker"
	"github.com/pollcast/pollcast/services/poller/clock"
)

// Inherit takes over the circuits and quotas of the upstreams that an earlier
// configuration of the source has too. The rule of the circuits, the bound of the quotas
// (0: none) and changed, which gets the transitions, are those of the new configuration.
// No call may be under way.
func (all *Upstreams) Inherit(old *Upstreams, rule breaker.Rule, maxCalls int, changed func(event.Breaker)) {
	for _, u := range all.List {
		for _, was := range old.List {
			if was.Name == u.Name {
				u.Circuit.Free()
				u.Circuit, was.moved = was.Circuit, true
				u.Circuit.Rebind(rule, changed)
				u.Quota = was.Quota
				u.Quota.SetLimit(maxCalls)
			}
		}
	}
	all.Probes.Store(old.Probes.Load())
}

// Memos returns what a later lease holder needs to know of the circuits and quotas. An
// upstream without failures and without counted calls is left out.
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

// StreakEnded reports whether a streak of failures that a record contains is over. Then the
// record must be replaced, or it would open a circuit too early after a restart. (The
// poll whose call failed replaces the record when a streak grows.)
func (all *Upstreams) StreakEnded(recorded []event.Circuit) bool {
	for _, m := range recorded {
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

// Record is the part of a record in the stream that is about circuits.
type Record struct {
	Circuits []event.Circuit
	Fence    uint64    // under which it was published
	At       time.Time // when it was made, by the wall clock
}

// laterThan reports whether a record was published after another: under a higher
// fence, or under the same one at a later time.
func (r Record) laterThan(other Record) bool {
	return r.Fence > other.Fence || r.Fence == other.Fence && r.At.After(other.At)
}

// Restore sets circuits and quotas to what the last lease holder published: fresh are
// the freshness records of the source's polls, transition is the last transition and
// circuits came with it. transition may be nil. Restore is called before the polls run.
func (all *Upstreams) Restore(fresh []Record, transition *event.Breaker, circuits []event.Circuit) {
	for _, u := range all.List {
		newest, at := u.newestMemo(fresh, transition, circuits)
		if newest.Upstream == "" {
			u.Circuit.Restore(transition) // a record of a version that published no memos
		}
		u.Circuit.Adopt(newest, at)
		u.restoreQuota(fresh)
	}
}

// newestMemo returns the newest memo of the upstream's circuit, and when its record was
// made. The order is that of the fences and of the changes of the circuit. The times
// decide only between records with the same change, because the clock may have been set.
func (u *Upstream) newestMemo(
	fresh []Record, transition *event.Breaker, circuits []event.Circuit,
) (newest event.Circuit, at time.Time) {
	var from Record
	consider := func(r Record) {
		for _, m := range r.Circuits {
			if m.Upstream != u.Name || r.Fence < from.Fence || r.Fence == from.Fence && m.Changes < newest.Changes {
				continue
			}
			if r.Fence > from.Fence || m.Changes > newest.Changes || r.At.After(from.At) {
				newest, from = m, r
			}
		}
	}
	for _, r := range fresh {
		consider(r)
	}
	if transition != nil {
		consider(Record{circuits, transition.Fence, transition.At})
	}
	return newest, from.At
}

// restoreQuota counts the calls of the last lease holder, as its latest record with
// such counts has them. The final record of a removed poll has none.
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
