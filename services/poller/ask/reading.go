package ask

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/source"
)

// Reading is the result of one tick's calls: a value, a failure, or neither if it was
// abandoned.
type Reading struct {
	Up        *Upstream  // the one that gave the value, or failed last
	contacts  []*contact // all that were asked
	Slot      time.Time  // of the tick
	Sent      time.Time  // when the call was sent that gave the value; without a value, when the tick began
	Took      time.Duration
	finished                  // zero after a failure
	Failure   *source.Failure // nil for a value
	Abandoned bool            // the poller stopped it, or Starved; it says nothing about the upstream
	Starved   bool            // abandoned because the process stood still meanwhile
}

// finished is an answer as it can be published.
type finished struct {
	Value  json.RawMessage // compact; nil for a poll with keys
	Digest jq.Digest       // of Value
	Items  []FinishedItem  // of a poll with keys
	Mark   any             // what must advance from value to value; nil if nothing must
	Seed   any             // the mark of the value before, if Before asked for it
	Head   int64           // of a sequence that the poll follows
}

// FinishedItem is the value of one key.
type FinishedItem struct {
	jq.Item
	Digest jq.Digest // of its value
}

// Before is what a new answer is compared with. It is a copy, because calls run while
// the poll changes.
type Before struct {
	Last Earlier
	Keys map[string]Earlier // by token
	Seed bool               // the mark of Last is wanted
}

// Earlier is the value that a poll or a key had before. The zero value is none.
type Earlier struct {
	Value  json.RawMessage
	Digest jq.Digest
}

// FailedOver reports whether an upstream failed. Another one may have answered.
func (r Reading) FailedOver() bool {
	return slices.ContainsFunc(r.contacts, func(c *contact) bool {
		return c.failure != nil && c.failure.Counts && !c.good
	})
}

// Report ends the round for the circuits of all upstreams that it asked. It must be
// called once for every Reading. It returns true if a streak of failures ended.
func (r Reading) Report() (eased bool) {
	for _, c := range r.contacts {
		before := c.up.Circuit.Snapshot().Streak
		c.report()
		eased = eased || before > 0 && c.up.Circuit.Snapshot().Streak == 0
	}
	return eased
}

// Blame makes the failure of a later call, such as for a position, the failure of the
// upstream that answered the round. It is called before Report.
func (r *Reading) Blame(f *source.Failure) {
	r.Up.Circuit.HoldOff(f.RetryAfter)
	for _, c := range r.contacts {
		if c.up == r.Up {
			c.good, c.failure = false, f
		}
	}
}
