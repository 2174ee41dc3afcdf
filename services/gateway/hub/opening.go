package hub

import (
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/memory"
)

// openingShare is how long connections that come to a feed get the same snapshot,
// or replay: a storm of reconnecting clients makes one for each feed and period,
// not one for each client.
const openingShare = 100 * time.Millisecond

// An Opening is what a subscription begins with: frames, and the place in the
// feed where the live frames after them begin.
type Opening struct {
	Seq uint64 // position in the stream
	Cur Cursor
	Pos uint64 // bytes of the feed before Cur

	since    uint64 // of a replay: it begins after this position
	made     time.Time
	contents *contents
}

// contents is what openings show, taken under the hub's mutex. It is encoded once,
// by the first connection that needs it, however many share it. Some need the end
// of a replay only.
type contents struct {
	encoder Encoder
	phase   wire.Phase
	epoch   string
	events  []openingEvent    // never written to after they were published
	fresh   []event.Freshness // copies
	shared  bool              // by connections that come soon
	size    int64             // about what the frames take, in bytes

	once   sync.Once
	data   []byte
	starts []int // where in data the events' frames begin, and the last one ends
}

type openingEvent struct {
	Event
	fresh event.Freshness
}

// shownOpenings are those that a feed's next connections share; nil: none.
type shownOpenings struct{ snapshot, replay *Opening }

// expire drops what is too old to be shared.
func (s *shownOpenings) expire(now time.Time) {
	if s.snapshot != nil && now.Sub(s.snapshot.made) > openingShare {
		s.snapshot = nil
	}
	if s.replay != nil && now.Sub(s.replay.made) > openingShare {
		s.replay = nil
	}
}

// Frames returns the opening's frames. It must not be called under the hub's
// mutex: it may take long.
func (o *Opening) Frames(fm Format) []byte {
	c := o.contents
	if !c.shared {
		fm = fm.Plain()
	}
	c.once.Do(func() { c.encode(fm, o.made) })
	if o.since == 0 {
		return c.data
	}
	return c.data[c.starts[sort.Search(len(c.events), func(i int) bool { return c.events[i].Seq > o.since })]:]
}

// Cost returns about what the frames take, in bytes.
func (o *Opening) Cost() int64 { return o.contents.size }

// addEvent adds an event with its freshness.
func (c *contents) addEvent(e Event, fresh event.Freshness) {
	c.events = append(c.events, openingEvent{e, fresh})
	c.size += int64(len(e.Data)) + memory.FrameCost
}

// Snapshot opens a feed with the last values of what its patterns match and those
// before did not. With share, connections that come at the same moment get the
// same bytes, unless they have seen more: up to seenSeq.
func (v *View) Snapshot(f *Feed, before []string, share bool, seenSeq uint64) Opening {
	now := v.now()
	if s := f.shown.snapshot; share && s != nil && now.Sub(s.made) <= openingShare && s.Seq >= seenSeq {
		return *s
	}
	o := v.open(f, now)
	o.contents = v.lastValues(f, before, now)
	o.contents.shared = share
	v.Metrics.Snapshots.Inc()
	if share {
		f.shown.snapshot = &o
	}
	return o
}

// open returns the place in a feed where what comes from now on begins.
func (v *View) open(f *Feed, now time.Time) Opening {
	o := Opening{Seq: v.seq, made: now}
	o.Cur, o.Pos = f.log.tip()
	return o
}

// freshness returns that of every poll of a feed now.
func (v *View) freshness(f *Feed, now time.Time) map[*pollState]event.Freshness {
	fresh := make(map[*pollState]event.Freshness, len(f.polls))
	for p := range f.polls {
		fresh[p] = p.fresh(now, v.link.down)
	}
	return fresh
}

// lastValues takes the last values that the feed's patterns match and those before
// did not.
func (v *View) lastValues(f *Feed, before []string, now time.Time) *contents {
	c, fresh := v.newContents(f, before, wire.Snapshot, now)
	for t := range f.topics {
		if t.last != nil && !matchAny(before, t.name) {
			c.addEvent(t.event(), t.poll.eventFresh(t.event(), v.freshIn(fresh, t.poll, now), now))
		}
	}
	return c
}

// eventsOf takes events of a replay that the patterns before did not match.
func (v *View) eventsOf(events []Event, f *Feed, before []string, now time.Time) *contents {
	c, fresh := v.newContents(f, before, wire.Replay, now)
	for _, e := range events {
		if !matchAny(before, e.Topic) {
			c.addEvent(e, v.freshOf(e, v.freshIn(fresh, v.poll(e.Poll), now), now))
		}
	}
	return c
}

// newContents takes the freshness of the feed's polls that the patterns before did
// not cover. All events are taken with the freshness of this moment, at which the
// live frames begin.
func (v *View) newContents(
	f *Feed, before []string, phase wire.Phase, now time.Time,
) (*contents, map[*pollState]event.Freshness) {
	c := &contents{encoder: v.Encoder, phase: phase, epoch: v.epoch}
	fresh := v.freshness(f, now)
	for p, fr := range fresh {
		if p.record != nil && !coversPoll(before, p.name) {
			c.fresh = append(c.fresh, fr)
			c.size += memory.FrameCost
		}
	}
	return c, fresh
}

// freshIn returns a poll's freshness of this moment, and keeps it in fresh.
func (v *View) freshIn(fresh map[*pollState]event.Freshness, p *pollState, now time.Time) event.Freshness {
	fr, ok := fresh[p]
	if !ok {
		fr = p.fresh(now, v.link.down)
		fresh[p] = fr
	}
	return fr
}

// encode makes the frames: the values in the stream's order, and then how far they
// can be trusted. Freshness never goes before the value it is about, or a client
// would take an older value that it has for confirmed.
func (c *contents) encode(fm Format, now time.Time) {
	c.sort()
	for _, e := range c.events {
		frame := eventFrame(e.Event, c.epoch, c.phase, e.fresh, now)
		c.starts = append(c.starts, len(c.data))
		c.data = c.encoder.Append(c.data, fm, &frame)
	}
	c.starts = append(c.starts, len(c.data))
	for i := range c.fresh {
		c.data = c.encoder.Append(c.data, fm, &wire.ServerFrame{Fresh: &c.fresh[i]})
	}
}

// sort brings events into the stream's order and freshness into the alphabet's.
func (c *contents) sort() {
	slices.SortFunc(c.events, func(a, b openingEvent) int { return bySeq(a.Event, b.Event) })
	slices.SortFunc(c.fresh, func(a, b event.Freshness) int { return strings.Compare(a.Poll, b.Poll) })
}
