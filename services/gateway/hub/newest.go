package hub

import (
	"slices"

	"github.com/pollcast/pollcast/pkg/wire"
)

// A Pull is the place of a connection with delivery "latest" that is out of its
// feed because its socket is full. It holds no memory of the feed, however long it
// stays behind.
//
// Events that are skipped show as jumps of a topic's version. Freshness is never
// skipped for good: the newest of each poll is always sent, after its events.
type Pull struct {
	Feed *Feed
	Seen Mark // what was sent or is out of date
}

// Newest returns the frames of what changed after a pull's place, up to and
// including the position to (0: up to now), and moves the place. ok is false when
// deletions in between are no longer known.
func (v *View) Newest(p *Pull, to uint64) (out []byte, ok bool) {
	if to == 0 {
		to = v.seq
	}
	if p.Feed.pace != nil {
		to = min(to, p.Feed.pace.seq) // later events are held
	}
	events, ok := v.newestEvents(p, to)
	if !ok {
		return nil, false
	}
	now, fm := v.now(), p.Feed.Format.Plain()
	for _, e := range events {
		frame := v.liveFrame(e, now)
		out = v.Encoder.Append(out, fm, &frame)
	}
	for poll := range p.Feed.polls {
		if _, held := p.Feed.heldFresh(poll); !held && poll.publishedAt > p.Seen.Fresh {
			out = v.Encoder.Append(out, fm, &wire.ServerFrame{Fresh: &poll.published})
		}
	}
	p.Seen = Mark{max(p.Seen.Seq, to), v.fresh}
	return out, true
}

// newestEvents returns the last events, and the deletions, of the pull's topics
// after its place and up to to.
func (v *View) newestEvents(p *Pull, to uint64) (events []Event, ok bool) {
	add := func(e Event) {
		if e.Seq > p.Seen.Seq && e.Seq <= to {
			events = append(events, e)
		}
	}
	if pace := p.Feed.pace; pace != nil {
		for _, e := range pace.sent {
			add(e)
		}
	} else {
		for t := range p.Feed.topics {
			if t.last != nil {
				add(t.event())
			}
		}
	}
	if to > p.Seen.Seq {
		if p.Seen.Seq < v.history.from {
			return nil, false
		}
		for _, d := range after(v.history.deleted, p.Seen.Seq) {
			if t := v.topics[d.Topic]; (t == nil || t.last == nil) && matchAny(p.Feed.Patterns, d.Topic) {
				add(d)
			}
		}
	}
	slices.SortFunc(events, bySeq)
	return events, true
}
