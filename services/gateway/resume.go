package gateway

import (
	"slices"

	"github.com/pollcast/pollcast/pkg/wire"
)

const (
	// maxReplay is the most events a resume replays. A client that needs more gets
	// the reason too_far and a snapshot.
	maxReplay = 10_000
	// nearBy is how far behind the history a client may be, in messages, to share
	// what is read back of all topics with everybody else.
	nearBy = maxReplay
)

// everything is the pattern of all topics.
var everything = []string{">"}

// A gap is a part of the stream that a client needs and the history does not
// hold. It is read back without the hub's mutex.
type gap struct {
	patterns []string // topics that it needs
	after    uint64   // position
	all      bool     // patterns are everything, to be shared by those who come together

	found *stretch // nil: it could not be read back
}

// replayed is what a resumed subscription begins with: events, or the reason
// why it cannot resume, or what must be read back before that is known.
type replayed struct {
	events   []past
	reason   string
	missing  *gap
	cutShort bool // the stream held less than was read from it before
}

// since finds the events after a position that a feed's patterns match, up to
// the hub's position. filled is the gap that the result before had, filled; nil
// at first. The caller holds the hub's mutex.
func (h *hub) since(since *wire.Since, f *feed, filled *gap) replayed {
	switch {
	case since.Epoch != h.epoch, since.Seq > h.seq:
		return replayed{reason: wire.NotResumedEpoch}
	case filled != nil:
		return h.fromStream(filled, since, f)
	case since.Seq < h.history.from:
		// What the history holds is not read back: a replica may not have it yet.
		// Those who are not far behind share what is read of all topics.
		if h.history.reach()-since.Seq <= nearBy {
			return replayed{missing: &gap{patterns: everything, after: since.Seq, all: true}}
		}
		return replayed{missing: &gap{patterns: f.patterns, after: since.Seq}}
	case f.far > since.Seq && f.era == h.history.era: // as for another client
		return replayed{reason: wire.NotResumedTooFar}
	}
	r := bounded(h.history.matching(since.Seq, f.patterns, maxReplay))
	if r.reason != "" {
		f.far, f.era = since.Seq+1, h.history.era
	}
	return r
}

// fromStream returns the events of a gap and those after it. The caller holds
// the hub's mutex.
func (h *hub) fromStream(g *gap, since *wire.Since, f *feed) replayed {
	s := g.found
	switch {
	case s == nil:
		return replayed{reason: wire.NotResumedTooFar}
	case s.to < h.history.from || s.era != h.history.era || s.holes == nil:
		return replayed{reason: wire.NotResumedTrimmed} // the history has moved on meanwhile
	}
	r := replayed{reason: s.lacks(since.Seq, f.patterns)}
	if r.reason == "" {
		events := append(s.after(since.Seq, f.patterns), h.history.matching(s.to, f.patterns, maxReplay)...)
		r = bounded(h.history.survivors(events, s.to))
	}
	switch {
	case g.all && r.reason == wire.NotResumedTooFar: // all topics were too much
		return replayed{missing: &gap{patterns: f.patterns, after: since.Seq}}
	case r.reason == "" && !f.ends(r.events, since.Seq):
		// A server that led the stream once may say that there is no more although
		// there is.
		return replayed{reason: wire.NotResumedTooFar, cutShort: true}
	}
	return r
}

// ends reports whether the events after a position end with the last one of
// every topic. The caller holds the hub's mutex.
func (f *feed) ends(events []past, seq uint64) bool {
	last := make(map[string]uint64, len(f.topics))
	for _, p := range events {
		last[p.e.Topic] = p.seq
	}
	for t := range f.topics {
		if t.last != nil && t.seq > seq && last[t.name] != t.seq {
			return false
		}
	}
	return true
}

// bounded is a replay of the events, unless they are too many.
func bounded(events []past) replayed {
	if len(events) > maxReplay {
		return replayed{reason: wire.NotResumedTooFar}
	}
	return replayed{events: events}
}

// replay opens a feed with the events after a position that its patterns match
// and those before did not. r has the reason why it cannot, or what must be read
// back first. With share, those who come together get the same bytes, or their
// end: clients that have seen as much or more, but nothing after it (up to
// seenSeq). The caller holds the mutex.
func (h *hub) replay(f *feed, before []string, since *wire.Since, share bool, seenSeq uint64, filled *gap) (o opening, r replayed) {
	if p := f.sharedReplay(since, seenSeq, h); share && p != nil {
		o = *p
		o.since = since.Seq
		return o, r
	}
	if r = h.since(since, f, filled); r.reason != "" || r.missing != nil {
		return o, r
	}
	o = h.open(f, h.now())
	o.since = since.Seq
	r.events = slices.DeleteFunc(r.events, func(p past) bool { return matchAny(before, p.e.Topic) })
	o.what = newContents(h.collect(f, before, h.freshness(f), &r), share)
	if share {
		f.past = &o
	}
	return o, r
}

// sharedReplay is the replay that a client can have from those before it; nil:
// none. The caller holds the hub's mutex.
func (f *feed) sharedReplay(since *wire.Since, seenSeq uint64, h *hub) *opening {
	p := f.past
	if p == nil || since.Epoch != h.epoch || h.now().Sub(p.made) > openingShare {
		return nil
	}
	if p.since > since.Seq || max(since.Seq, seenSeq) > p.seq {
		return nil
	}
	return p
}
