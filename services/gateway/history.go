package gateway

import (
	"sort"

	"github.com/pollcast/pollcast/pkg/event"
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

	maxBytes int
}

// restart empties the history: it begins after seq.
func (h *history) restart(seq uint64) { *h = history{max: h.max, maxBytes: h.maxBytes, from: seq} }

// add appends an event.
func (h *history) add(e *event.Event, seq uint64) {
	h.list = append(h.list, past{e, seq})
	h.bytes += len(e.Data) + eventCost
	for h.bytes > h.maxBytes || len(h.list)-h.gone > h.max {
		p := &h.list[h.gone]
		h.from, h.bytes = p.seq, h.bytes-len(p.e.Data)-eventCost
		*p = past{}
		h.gone++
	}
	if h.gone > len(h.list)/2 && h.gone > 1024 {
		h.list = append([]past(nil), h.list[h.gone:]...)
		h.gone = 0
	}
}

// after returns the events after seq; false when it does not reach so far back.
func (h *history) after(seq uint64) ([]past, bool) {
	if seq < h.from {
		return nil, false
	}
	live := h.list[h.gone:]
	return live[sort.Search(len(live), func(i int) bool { return live[i].seq > seq }):], true
}
