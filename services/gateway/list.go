package gateway

import (
	"slices"
	"strings"

	"github.com/pollcast/pollcast/pkg/event"
)

// listing is the answer of GET /v1/topics.
type listing struct {
	Epoch string        `json:"epoch"`
	Seq   uint64        `json:"seq"`
	Polls []pollListing `json:"polls"`
}

type pollListing struct {
	event.Freshness
	Topics []string `json:"topics"`
}

// list is what the hub knows, sorted by poll and topic.
func (h *hub) list() listing {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	topics := make(map[*pollState][]string, len(h.polls))
	for _, t := range h.topics {
		if t.last != nil {
			topics[t.poll] = append(topics[t.poll], t.name)
		}
	}
	out := listing{Epoch: h.epoch, Seq: h.seq, Polls: make([]pollListing, 0, len(h.polls))}
	for _, p := range h.polls {
		names := append([]string{}, topics[p]...)
		slices.Sort(names)
		out.Polls = append(out.Polls, pollListing{p.fresh(now, h.busDown), names})
	}
	slices.SortFunc(out.Polls, func(a, b pollListing) int { return strings.Compare(a.Poll, b.Poll) })
	return out
}

// listCost is about what a list takes, in bytes.
func (h *hub) listCost() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return int64(len(h.topics))*128 + int64(len(h.polls))*2*frameCost
}
