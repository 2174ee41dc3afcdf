package gateway

import (
	"cmp"
	"slices"
	"sort"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/topic"
)

// historyBytes bounds the history, beside an eighth of the memory budget. What
// is older is read back from the stream.
const historyBytes = 64 << 20

// A past is an event that was.
type past struct {
	e   *event.Event
	seq uint64
}

// A history is the latest events in the stream's order, so that clients that
// come back after a short while (all those of a gateway that died, say) cost
// the bus nothing. The oldest go first.
type history struct {
	max   int    // events
	from  uint64 // it holds every event after this position
	list  []past // of which the first gone are no longer there
	gone  int
	bytes int // with eventCost each
	era   int // counts restarts: positions of two eras are not of one log

	topics  map[string][]past // the same, by topic
	deleted []past            // those of them that are deletions

	maxBytes int
}

// restart empties the history: it begins after seq.
func (h *history) restart(seq uint64) {
	*h = history{max: h.max, maxBytes: h.maxBytes, from: seq, era: h.era + 1}
}

// add appends an event.
func (h *history) add(e *event.Event, seq uint64) {
	if h.topics == nil {
		h.topics = map[string][]past{}
	}
	h.list = append(h.list, past{e, seq})
	h.topics[e.Topic] = append(h.topics[e.Topic], past{e, seq})
	if e.Deleted {
		h.deleted = append(h.deleted, past{e, seq})
	}
	h.bytes += len(e.Data) + eventCost
	for h.bytes > h.maxBytes || len(h.list)-h.gone > h.max {
		h.drop()
	}
	if h.gone > len(h.list)/2 && h.gone > 1024 {
		h.list = append([]past(nil), h.list[h.gone:]...)
		h.gone = 0
	}
}

// drop lets go of the oldest event.
func (h *history) drop() {
	p := h.list[h.gone]
	h.list[h.gone] = past{}
	h.gone++
	h.from, h.bytes = p.seq, h.bytes-len(p.e.Data)-eventCost
	rest := h.topics[p.e.Topic]
	rest[0] = past{}
	if rest = rest[1:]; len(rest) > 0 {
		h.topics[p.e.Topic] = rest
	} else {
		delete(h.topics, p.e.Topic)
	}
	if p.e.Deleted {
		h.deleted[0] = past{}
		h.deleted = h.deleted[1:]
	}
}

// matching returns the events after seq, from where the history must reach,
// that the patterns match; and if they are more than most, some more than that.
func (h *history) matching(seq uint64, patterns []string, most int) []past {
	return pick(h.list[h.gone:], h.topics, seq, patterns, most)
}

// pick is what the patterns match of a list after seq. Patterns without a
// wildcard are looked up, since there may be ten thousand clients with as many
// sets of them.
func pick(list []past, topics map[string][]past, seq uint64, patterns []string, most int) (out []past) {
	if slices.ContainsFunc(patterns, topic.IsPattern) {
		for _, p := range after(list, seq) {
			if matchAny(patterns, p.e.Topic) {
				if out = append(out, p); len(out) > most {
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

func bySeq(a, b past) int { return cmp.Compare(a.seq, b.seq) }

// after returns the events after seq; false when it does not reach so far back.
func (h *history) after(seq uint64) ([]past, bool) {
	if seq < h.from {
		return nil, false
	}
	return after(h.list[h.gone:], seq), true
}

// after is the end of a list in the stream's order.
func after(list []past, seq uint64) []past {
	return list[sort.Search(len(list), func(i int) bool { return list[i].seq > seq }):]
}

// reach is how far back the history will still reach when the stream has been
// read back up to there: a full one moves on meanwhile.
func (h *history) reach() uint64 {
	live := h.list[h.gone:]
	if len(live) < h.max/8*7 && h.bytes < h.maxBytes/8*7 || len(live) == 0 {
		return h.from
	}
	return live[len(live)/8].seq
}

// survivors are the events without those that a deletion after known has taken
// along: the stream, read back after it, may hold some of them or none, and the
// deletion stands for them all.
func (h *history) survivors(events []past, known uint64) []past {
	later := after(h.deleted, known)
	if len(later) == 0 {
		return events
	}
	gone := map[string]uint64{}
	for _, p := range later {
		gone[p.e.Topic] = p.seq
	}
	return slices.DeleteFunc(events, func(p past) bool { return p.seq < gone[p.e.Topic] })
}
