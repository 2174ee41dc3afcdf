package record

import (
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/jq"
)

// stored is what the stream holds of a poll, as far as this process knows.
type Stored struct {
	Held         // the poll's own topic; empty if the poll has keys
	Guard uint64 // sequence number of fresh; 0 when there is none
	Fresh *event.Freshness
	// circuits came with fresh.
	Circuits []event.Circuit
	// shut: the last freshness record is ours, and is younger than anything that
	// may still be on its way, which the stream therefore refuses.
	Fenced bool
	// alone: and what the stream holds was read after that.
	Synced bool
	// found is what a publish read back from the stream, if it did.
	Recovered *Recovered
}

// doubt is s after an event of which nobody knows whether it will be stored.
func (s Stored) unknown() Stored {
	s.Fenced, s.Synced = false, false
	return s
}

// remains is what the stream gave back for one poll.
type Recovered struct {
	Event    *event.Event
	EventSeq uint64 // 0 if it is not known
	Fresh    *event.Freshness
	FreshSeq uint64
	Circuits []event.Circuit         // came with fresh
	Place    *event.Place            // likewise
	Keys     map[string]*event.Event // by the last token of their topics
	KeySeqs  map[string]uint64       // likewise, where they are known
}

// fence is the highest under which any of it was published.
func (r Recovered) Fence() uint64 {
	var f uint64
	if r.Event != nil {
		f = r.Event.Fence
	}
	if r.Fresh != nil {
		f = max(f, r.Fresh.Fence)
	}
	for _, e := range r.Keys {
		f = max(f, e.Fence)
	}
	return f
}

// asOf is when the stored value was last confirmed: the event knows when it
// was published, the freshness record what happened since. Which of the two is
// the later one the stream says: by their times a clock that was set back would
// make a value younger than it is.
func (r Recovered) AsOf() time.Time {
	switch {
	case r.Event == nil:
		return time.Time{}
	case r.Fresh == nil, r.Fresh.AsOf.IsZero():
		return r.Event.AsOf
	case r.EventSeq != 0 && r.FreshSeq != 0:
		if r.FreshSeq > r.EventSeq {
			return r.Fresh.AsOf
		}
		return r.Event.AsOf
	case r.Fresh.AsOf.After(r.Event.AsOf):
		return r.Fresh.AsOf
	}
	return r.Event.AsOf
}

// learn brings s to what the stream holds.
func (s *Stored) Learn(r Recovered, ignore []jq.Path) {
	s.Held.Learn(r.Event, r.EventSeq, ignore)
	if r.Place != nil {
		s.Version = max(s.Version, r.Place.Version)
	}
	s.Guard, s.Fresh, s.Circuits, s.Recovered = r.FreshSeq, r.Fresh, r.Circuits, &r
}

// How a new owner begins: its freshness record shuts older owners out, then the
// stream's leader is asked what they left, and only then comes an event. An
// event of an older owner that is stored before the record is counted on, one
// that comes after it is refused; that holds for the first event of all, too,
// when there was no record yet. And it holds for events of its own that it does
// not know to be stored or lost, wherefore it begins anew after such a one.

// confirmed is when the last owner's value was last confirmed, as far as the
// stream says.
func (r Recovered) Confirmed(now time.Time) time.Time {
	at := r.AsOf()
	if r.Event == nil && r.Fresh != nil {
		at = r.Fresh.AsOf
	}
	return clock.Anchor(at, now)
}
