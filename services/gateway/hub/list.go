package hub

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/memory"
)

// Listing is what the hub knows, by poll and topic.
type Listing struct {
	Epoch string        `json:"epoch"`
	Seq   uint64        `json:"seq"`
	Polls []PollListing `json:"polls"`
}

// PollListing is a poll's freshness and its topics that have a value.
type PollListing struct {
	event.Freshness
	Topics []string `json:"topics"`
}

// List returns what the hub knows, sorted by poll and topic.
func (v *View) List() Listing {
	now := v.now()
	topics := make(map[*pollState][]string, len(v.polls))
	for _, t := range v.topics {
		if t.last != nil {
			topics[t.poll] = append(topics[t.poll], t.name)
		}
	}
	out := Listing{Epoch: v.epoch, Seq: v.seq, Polls: make([]PollListing, 0, len(v.polls))}
	for _, p := range v.polls {
		names := append([]string{}, topics[p]...)
		slices.Sort(names)
		out.Polls = append(out.Polls, PollListing{p.fresh(now, v.link.down), names})
	}
	slices.SortFunc(out.Polls, func(a, b PollListing) int { return strings.Compare(a.Poll, b.Poll) })
	return out
}

// ListCost returns about what a Listing takes, in bytes.
func (v *View) ListCost() int64 {
	return int64(len(v.topics))*128 + int64(len(v.polls))*2*memory.FrameCost
}

// Values is a snapshot, as a subscription would begin with.
type Values struct {
	Epoch  string            `json:"epoch"`
	Seq    uint64            `json:"seq"`
	Values []*wire.Event     `json:"values"`
	Fresh  []event.Freshness `json:"fresh"`
}

// Values returns a snapshot of what the patterns match, and an entity tag of it
// that is the same at every gateway. ok is false if it has more than most values.
func (h *Hub) Values(patterns []string, most int) (out Values, tag string, ok bool) {
	var c *contents
	now := h.now()
	h.With(func(v *View) {
		f := v.Join(patterns, JSON, 0) // for the moment: a feed finds what matches
		c = v.lastValues(f, nil, now)
		v.Leave(f)
		out = Values{Epoch: v.epoch, Seq: v.seq, Values: []*wire.Event{}, Fresh: []event.Freshness{}}
	})
	if len(c.events) > most {
		return out, "", false
	}
	c.sort()
	last := uint64(0)
	for _, e := range c.events {
		out.Values = append(out.Values, eventFrame(e.Event, "", wire.Snapshot, e.fresh, now).Event)
		last = max(last, e.Seq)
	}
	out.Fresh = append(out.Fresh, c.fresh...)
	sum := fnv.New64a() // of what is known, not of when and by which gateway it was published
	for _, f := range c.fresh {
		f.CheckedAt, f.Fence = time.Time{}, 0
		b, _ := json.Marshal(f) // never fails
		_, _ = sum.Write(b)
	}
	return out, fmt.Sprintf(`"%s.%d.%d.%x"`, out.Epoch, last, len(c.events), sum.Sum64()), true
}

// Numbers are how much the hub knows.
type Numbers struct {
	Epoch                                          string
	Seq                                            uint64
	Polls, PollsStale, Topics, TopicsWaited, Feeds int
}

// Numbers counts what the hub knows.
func (v *View) Numbers() Numbers {
	n := Numbers{
		Epoch: v.epoch, Seq: v.seq, Polls: len(v.polls), Feeds: len(v.feeds),
		Topics: v.values.topics, TopicsWaited: len(v.topics) - v.values.topics,
	}
	now := v.now()
	for _, p := range v.polls {
		if p.fresh(now, v.link.down).Stale {
			n.PollsStale++
		}
	}
	return n
}

// Usage returns the bytes that values, history and feeds take.
func (v *View) Usage() (values, history, feeds int64) {
	now := v.now()
	for _, f := range v.feeds {
		f.shown.expire(now)
		feeds += f.cost() + int64(len(f.log.tail.buf))
	}
	return v.values.bytes + int64(len(v.topics)+len(v.polls))*memory.TopicCost, int64(v.history.bytes), feeds
}
