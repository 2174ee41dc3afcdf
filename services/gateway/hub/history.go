package hub

import (
	"cmp"
	"slices"
	"sort"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/topic"
	"github.com/pollcast/pollcast/services/gateway/memory"
)

// An Event is an event with its position in the stream.
type Event struct {
	*event.Event
	Seq uint64
}

// cost returns what an event takes in memory, in bytes.
func (e Event) cost() int { return len(e.Data) + memory.EventCost }

// A history is the latest events in the stream's order. Clients that come back
// after a short while (all those of a gateway that died, for example) are served
// from it and cost the bus nothing. At its bounds the oldest events go first.
type history struct {
	max      int // events
	maxBytes int

	from  uint64  // it holds every event after this position
	list  []Event // the first gone of them are no longer there
	gone  int
	bytes int // the sum of cost
	era   int // counts restarts: positions of two eras are not of one log

	topics  map[string][]Event // the same events, by topic
	deleted []Event            // those of them that are deletions
}

// restart empties the history: it begins after seq.
func (h *history) restart(seq uint64) {
	*h = history{max: h.max, maxBytes: h.maxBytes, from: seq, era: h.era + 1}
}

// add appends an event.
func (h *history) add(e Event) {
	if h.topics == nil {
		h.topics = map[string][]Event{}
	}
	h.list = append(h.list, e)
	h.topics[e.Topic] = append(h.topics[e.Topic], e)
	if e.Deleted {
		h.deleted = append(h.deleted, e)
	}
	h.bytes += e.cost()
	for h.bytes > h.maxBytes || len(h.list)-h.gone > h.max {
		h.drop()
	}
	if h.gone > len(h.list)/2 && h.gone > 1024 {
		h.list = append([]Event(nil), h.list[h.gone:]...)
		h.gone = 0
	}
}

// drop removes the oldest event.
func (h *history) drop() {
	e := h.list[h.gone]
	h.list[h.gone] = Event{}
	h.gone++
	h.from, h.bytes = e.Seq, h.bytes-e.cost()
	rest := h.topics[e.Topic]
	rest[0] = Event{}
	if rest = rest[1:]; len(rest) > 0 {
		h.topics[e.Topic] = rest
	} else {
		delete(h.topics, e.Topic)
	}
	if e.Deleted {
		h.deleted[0] = Event{}
		h.deleted = h.deleted[1:]
	}
}

// matching returns the events after seq that the patterns match. The history must
// reach back to seq. If there are more than most, it returns some more than most.
func (h *history) matching(seq uint64, patterns []string, most int) []Event {
	return pick(h.list[h.gone:], h.topics, seq, patterns, most)
}

// pick returns what the patterns match of a list after seq. topics is the same
// list by topic: patterns without a wildcard are looked up there, because there
// may be ten thousand clients with as many sets of them.
func pick(list []Event, topics map[string][]Event, seq uint64, patterns []string, most int) (out []Event) {
	if slices.ContainsFunc(patterns, topic.IsPattern) {
		for _, e := range after(list, seq) {
			if matchAny(patterns, e.Topic) {
				if out = append(out, e); len(out) > most {
					break
				}
			}
		}
		return out
	}
	for _, p := range patterns {
		if out = append(out, after(topics[p], seq)...); len(out) > most {
			break
		}
	}
	slices.SortFunc(out, bySeq)
	return out
}

func bySeq(a, b Event) int { return cmp.Compare(a.Seq, b.Seq) }

// after returns the events after seq; false when it does not reach so far back.
func (h *history) after(seq uint64) ([]Event, bool) {
	if seq < h.from {
		return nil, false
	}
	return after(h.list[h.gone:], seq), true
}

// after returns the end of a list in the stream's order.
func after(list []Event, seq uint64) []Event {
	return list[sort.Search(len(list), func(i int) bool { return list[i].Seq > seq }):]
}

// reach returns how far back the history will still reach when the stream has
// been read back up to there: a full history moves on meanwhile.
func (h *history) reach() uint64 {
	live := h.list[h.gone:]
	if len(live) < h.max/8*7 && h.bytes < h.maxBytes/8*7 || len(live) == 0 {
		return h.from
	}
	return live[len(live)/8].Seq
}

// survivors returns the events without those that a deletion after known has
// removed from the stream. The stream, read back after the deletion, may hold some
// of them or none; the deletion stands for them all.
func (h *history) survivors(events []Event, known uint64) []Event {
	later := after(h.deleted, known)
	if len(later) == 0 {
		return events
	}
	gone := map[string]uint64{}
	for _, e := range later {
		gone[e.Topic] = e.Seq
	}
	return slices.DeleteFunc(events, func(e Event) bool { return e.Seq < gone[e.Topic] })
}
