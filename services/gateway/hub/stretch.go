package hub

import (
	"slices"

	"github.com/pollcast/pollcast/pkg/wire"
)

// MaxReplay is the most events that a resume replays. A client that needs more
// gets the reason too_far and a snapshot.
const MaxReplay = 10_000

// A Stretch is a part of the stream, after From and up to To, as it was read back
// for all clients that needed it. From where on it is complete may lie in its
// middle, and differ by topic.
type Stretch struct {
	From, To uint64
	Events   []Event // in the stream's order
	Bytes    int     // what Events take
	Depth    int64   // messages that the stream keeps per subject; 0 or less: any number
	Trimmed  uint64  // the stream may have dropped events up to here
	TooFar   uint64  // events up to here were more than are kept

	topics map[string][]Event // events by topic
	holes  map[string]uint64  // what Trimmed is, of one topic; nil until checked
	era    int                // of the history that goes on after it
}

// Era notes the history that goes on after the stretch.
func (s *Stretch) Era(era int) { s.era = era }

// Checked reports whether Check has found that the history goes on after it.
func (s *Stretch) Checked() bool { return s.holes != nil }

// Lacks returns why a client that has seen the stream up to seq cannot have the
// rest from here; empty: it can.
func (s *Stretch) Lacks(seq uint64, patterns []string) (reason string) {
	switch {
	case seq < s.Trimmed:
		return wire.NotResumedTrimmed
	case seq < s.TooFar:
		return wire.NotResumedTooFar
	}
	for topic, upTo := range s.holes {
		if seq < upTo && matchAny(patterns, topic) {
			return wire.NotResumedTrimmed
		}
	}
	return ""
}

// After returns the events after seq that the patterns match.
func (s *Stretch) After(seq uint64, patterns []string) []Event {
	return pick(s.Events, s.topics, seq, patterns, MaxReplay)
}

// check looks for what the stream has dropped of single topics. It uses what the
// history holds of the time after the stretch; false when that does not reach so
// far back.
//
// A topic's versions jump only at its deletion, and its oldest events go when
// there are more than Depth: a client that needs fewer has lost none. The margin
// of an eighth is for what the stream has stored and the history does not know of
// yet.
func (s *Stretch) check(h *history) bool {
	later, ok := h.after(s.To)
	if !ok {
		return false
	}
	s.holes = map[string]uint64{}
	events := h.survivors(slices.Concat(s.Events, later), s.To)
	count := map[string]int64{}
	next := map[string]Event{}
	for _, e := range slices.Backward(events) {
		t := e.Topic
		if n, ok := next[t]; ok && e.Version+1 != n.Version && !n.Deleted {
			s.hole(t, n.Seq)
		}
		next[t] = e
		if count[t]++; s.Depth > 0 && count[t] >= s.Depth-s.Depth/8 {
			s.hole(t, e.Seq)
		}
	}
	return true
}

func (s *Stretch) hole(topic string, upTo uint64) { s.holes[topic] = max(s.holes[topic], upTo) }

// Add takes in an event, in any order, with at most most bytes in the end. It
// holds no more than twice as much as it may.
func (s *Stretch) Add(e Event, most int) {
	s.Events = append(s.Events, e)
	s.Bytes += e.cost()
	if len(s.Events) > 2*MaxReplay || s.Bytes > 2*most {
		s.Settle(most)
	}
}

// Settle brings the events into the stream's order, each once. If there are more
// than are kept, it drops the oldest.
func (s *Stretch) Settle(most int) {
	slices.SortFunc(s.Events, bySeq)
	s.Events = slices.CompactFunc(s.Events, func(a, b Event) bool { return a.Seq == b.Seq })
	s.Bytes = 0
	for i, e := range slices.Backward(s.Events) {
		more := e.cost()
		if len(s.Events)-i > MaxReplay || s.Bytes+more > most || e.Seq <= s.TooFar {
			s.TooFar = max(s.TooFar, e.Seq)
			s.Events = slices.Clone(s.Events[i+1:])
			break
		}
		s.Bytes += more
	}
}

// Prepend puts an earlier piece before the events.
func (s *Stretch) Prepend(piece Stretch, most int) {
	s.Events = append(piece.Events, s.Events...)
	s.Bytes += piece.Bytes
	s.TooFar = max(s.TooFar, piece.TooFar)
	s.Settle(most)
}

// Index makes the events findable by topic, once they are complete.
func (s *Stretch) Index() {
	s.topics = map[string][]Event{}
	for _, e := range s.Events {
		s.topics[e.Topic] = append(s.topics[e.Topic], e)
	}
}
