package gateway

import (
	"slices"
	"strings"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
)

// collected is what a snapshot or a replay shows, taken under the hub's mutex:
// events are never written to after they were published, freshness is copied.
type collected struct {
	phase  wire.Phase
	epoch  string
	fresh  []event.Freshness
	events []collectedEvent
}

type collectedEvent struct {
	past
	fresh event.Freshness
}

// freshness is that of every poll of a feed now. The caller holds the mutex.
func (h *hub) freshness(f *feed) map[*pollState]event.Freshness {
	now := h.now()
	fresh := make(map[*pollState]event.Freshness, len(f.polls))
	for p := range f.polls {
		fresh[p] = p.fresh(now, h.busDown)
	}
	return fresh
}

// collect takes what the feed's patterns match and those before did not: the
// last values or, if r is set, its events. fresh is the freshness of the moment
// at which the live frames begin. The caller holds the mutex.
func (h *hub) collect(f *feed, before []string, fresh map[*pollState]event.Freshness, r *replayed) collected {
	now := h.now()
	out := collected{phase: wire.Snapshot, epoch: h.epoch}
	freshOf := func(p *pollState) event.Freshness {
		fr, ok := fresh[p]
		if !ok {
			fr = p.fresh(now, h.busDown)
			fresh[p] = fr
		}
		return fr
	}
	for p, fr := range fresh {
		if p.record != nil && !coversPoll(before, p.name) {
			out.fresh = append(out.fresh, fr)
		}
	}
	if r != nil {
		out.phase = wire.Replay
		for _, p := range r.events {
			out.events = append(out.events, collectedEvent{p, h.trust(p, freshOf(h.poll(p.e.Poll)), now)})
		}
		return out
	}
	for t := range f.topics {
		if t.last != nil && !matchAny(before, t.name) {
			out.events = append(out.events, collectedEvent{past{t.last, t.seq}, t.poll.trust(t.last, t.seq, freshOf(t.poll), now)})
		}
	}
	return out
}

// encode makes the frames: the values in the stream's order, and then how far
// they can be trusted. Freshness never goes before the value it speaks of, or a
// client would take an older value that it has for confirmed. starts are where
// the events' frames begin, and where the last one ends.
func (c collected) encode(fm format, now time.Time) (out []byte, starts []int) {
	c.sort()
	for _, e := range c.events {
		frame := eventFrame(e.e, e.seq, c.phase, e.fresh, now)
		frame.Event.Epoch = c.epoch
		starts = append(starts, len(out))
		out = appendFrame(out, fm, &frame)
	}
	starts = append(starts, len(out))
	for i := range c.fresh {
		out = appendFrame(out, fm, &wire.ServerFrame{Fresh: &c.fresh[i]})
	}
	return out, starts
}

// sort brings events into the stream's order and freshness into the alphabet's.
func (c collected) sort() {
	slices.SortFunc(c.events, func(a, b collectedEvent) int {
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	slices.SortFunc(c.fresh, func(a, b event.Freshness) int { return strings.Compare(a.Poll, b.Poll) })
}
