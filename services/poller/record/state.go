package record

import (
	"iter"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
)

// Sync says how far this poller has come with the stream in its tenure.
type Sync int

const (
	// Unknown: a record of somebody else, or an event of this poller's own of which
	// no acknowledgement came, may still be stored.
	Unknown Sync = iota
	// Fenced: the last freshness record is this poller's. The stream refuses what is
	// still on its way.
	Fenced
	// Synced: and what the stream holds was read after that.
	Synced
)

// State is what the stream holds of a poll beside its values, as far as this process
// knows.
type State struct {
	Sync  Sync
	Guard uint64           // sequence number of Fresh; 0: there is none
	Fresh *event.Freshness // the last one; or nil
	// Circuits came with Fresh.
	Circuits []event.Circuit
	// Recovered is what a publish has read from the stream; or nil.
	Recovered *Recovered
}

// Learn brings s to what the stream holds.
func (s *State) Learn(r Recovered) {
	s.Guard, s.Fresh, s.Circuits, s.Recovered = r.FreshSeq, r.Fresh, r.Circuits, &r
}

// unknown is s after an event of which nobody knows whether it will be stored.
func (s State) unknown() State {
	s.Sync = Unknown
	return s
}

// Recovered is what was read from the stream of one poll.
type Recovered struct {
	Event    *event.Event // the last one of the poll's own topic; or nil
	EventSeq uint64       // 0: not known
	Fresh    *event.Freshness
	FreshSeq uint64
	Circuits []event.Circuit // came with Fresh
	Place    *event.Place    // came with Fresh
	// Keys are the last events of the keys by the last token of their topics; nil:
	// they were not read, or there are none.
	Keys    map[string]*event.Event
	KeySeqs map[string]uint64 // by the same token, where they are known
}

// Topics calls with the last event of each topic, by its token, and the event's
// sequence number, 0 if that is not known.
func (r Recovered) Topics() iter.Seq2[string, Last] {
	return func(yield func(string, Last) bool) {
		if r.Event != nil && !yield(OwnTopic, Last{r.Event, r.EventSeq, r.Fresh, r.FreshSeq}) {
			return
		}
		for token, e := range r.Keys {
			// The freshness record of the poll is the later one or not: for a key only
			// the times tell.
			if !yield(token, Last{e, r.KeySeqs[token], r.Fresh, 0}) {
				return
			}
		}
	}
}

// Fence is the highest under which any of it was published.
func (r Recovered) Fence() uint64 {
	var fence uint64
	if r.Fresh != nil {
		fence = r.Fresh.Fence
	}
	for _, last := range r.Topics() {
		fence = max(fence, last.Event.Fence)
	}
	return fence
}

// Own is the last of the poll's own topic.
func (r Recovered) Own() Last { return Last{r.Event, r.EventSeq, r.Fresh, r.FreshSeq} }

// Confirmed is when the last holder's value was last confirmed, as far as the stream
// says; zero if it says nothing.
func (r Recovered) Confirmed(now time.Time) time.Time {
	at := r.Own().AsOf()
	if r.Event == nil && r.Fresh != nil {
		at = r.Fresh.AsOf
	}
	return clock.Anchor(at, now)
}

// Last is the last event of a topic, and the last freshness record of its poll.
type Last struct {
	Event    *event.Event // or nil
	EventSeq uint64       // 0: not known
	Fresh    *event.Freshness
	FreshSeq uint64 // 0: not known
}

// AsOf is when the value was last confirmed; zero without an event. The event knows
// when it was published, the freshness record what happened since. Which of the two
// is the later one their sequence numbers say: by their times a clock that was set
// back would make a value younger than it is.
func (l Last) AsOf() time.Time {
	switch {
	case l.Event == nil:
		return time.Time{}
	case l.Fresh == nil, l.Fresh.AsOf.IsZero():
		return l.Event.AsOf
	case l.EventSeq != 0 && l.FreshSeq != 0:
		if l.FreshSeq > l.EventSeq {
			return l.Fresh.AsOf
		}
		return l.Event.AsOf
	}
	return clock.Later(l.Event.AsOf, l.Fresh.AsOf)
}
