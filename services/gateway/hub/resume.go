package hub

import (
	"time"

	"github.com/pollcast/pollcast/pkg/wire"
)

// NearBy is how far behind the history a client may be, in messages, to share what
// is read back of all topics with everybody else.
const NearBy = MaxReplay

// everything is the pattern of all topics.
var everything = []string{">"}

// A Gap is a part of the stream that a client needs and the history does not hold.
// It is read back without the hub's mutex.
type Gap struct {
	Patterns []string // topics that it needs
	After    uint64   // position
	Found    *Stretch // what was read back; nil: nothing, or not yet

	all bool // Patterns are everything, to be shared by those who come together
}

// Replayed is how a resume ended. If Reason is set, it cannot be done. If Missing
// is set, that must be read back first.
type Replayed struct {
	Reason   string
	Missing  *Gap
	CutShort bool // the stream held less than was read from it before

	events []Event
}

// SeenSeq returns how far a client has seen the hub's stream; 0 if its frame has
// nothing about it.
func (v *View) SeenSeq(req *wire.Subscribe) (seq uint64) {
	for _, p := range []*wire.Since{req.Since, req.NotOlderThan} {
		if p != nil && p.Epoch == v.epoch {
			seq = max(seq, p.Seq)
		}
	}
	return seq
}

// MaybeOlder reports whether what the hub has may be older than the stream, of
// which a client that came at a time has seen more. It is not older if, since
// then, a record came straight from the stream and after that NATS reported that
// there is no more. A server that is cut off from its cluster, or that was frozen,
// may report so for a while, but no record comes from it, and the records that
// were held back come before its report.
func (v *View) MaybeOlder(came time.Time) bool { return v.link.down || !v.link.proved.After(came) }

// Replay opens a feed with the events after a position that its patterns match and
// those before did not. filled is the Gap that the call before returned, filled;
// nil at first. With share, connections that come together get the same bytes, or
// their end: clients that have seen as much or more, but nothing after it (up to
// seenSeq).
func (v *View) Replay(
	f *Feed, before []string, since *wire.Since, share bool, seenSeq uint64, filled *Gap,
) (Opening, Replayed) {
	if p := v.sharedReplay(f, since, seenSeq); share && p != nil {
		o := *p
		o.since = since.Seq
		return o, Replayed{}
	}
	r := v.since(since, f, filled)
	if r.Reason != "" || r.Missing != nil {
		return Opening{}, r
	}
	now := v.now()
	o := v.open(f, now)
	o.since = since.Seq
	o.contents = v.eventsOf(r.events, f, before, now)
	o.contents.shared = share
	if share {
		f.shown.replay = &o
	}
	return o, r
}

// sharedReplay returns the replay that a client can have from those before it;
// nil: none.
func (v *View) sharedReplay(f *Feed, since *wire.Since, seenSeq uint64) *Opening {
	p := f.shown.replay
	if p == nil || since.Epoch != v.epoch || v.now().Sub(p.made) > openingShare {
		return nil
	}
	if p.since > since.Seq || max(since.Seq, seenSeq) > p.Seq {
		return nil
	}
	return p
}

// since finds the events after a position that a feed's patterns match, up to the
// hub's position.
func (v *View) since(since *wire.Since, f *Feed, filled *Gap) Replayed {
	switch {
	case since.Epoch != v.epoch, since.Seq > v.seq:
		return Replayed{Reason: wire.NotResumedEpoch}
	case filled != nil:
		return v.fromStream(filled, since, f)
	case since.Seq < v.history.from:
		// Events in the history are not read back: a replica may not have them yet.
		// Clients that are not far behind share what is read of all topics.
		if v.history.reach()-since.Seq <= NearBy {
			return Replayed{Missing: &Gap{Patterns: everything, After: since.Seq, all: true}}
		}
		return Replayed{Missing: &Gap{Patterns: f.Patterns, After: since.Seq}}
	case since.Seq < f.tooFar.below && f.tooFar.era == v.history.era: // as for another client
		return Replayed{Reason: wire.NotResumedTooFar}
	}
	r := bounded(v.history.matching(since.Seq, f.Patterns, MaxReplay))
	if r.Reason != "" {
		f.tooFar = tooFar{since.Seq + 1, v.history.era}
	}
	return r
}

// fromStream returns the events of a gap and those after it.
func (v *View) fromStream(g *Gap, since *wire.Since, f *Feed) Replayed {
	s := g.Found
	switch {
	case s == nil:
		return Replayed{Reason: wire.NotResumedTooFar}
	case s.To < v.history.from || s.era != v.history.era || !s.Checked():
		return Replayed{Reason: wire.NotResumedTrimmed} // the history has moved on meanwhile
	}
	r := Replayed{Reason: s.Lacks(since.Seq, f.Patterns)}
	if r.Reason == "" {
		events := append(s.After(since.Seq, f.Patterns), v.history.matching(s.To, f.Patterns, MaxReplay)...)
		r = bounded(v.history.survivors(events, s.To))
	}
	switch {
	case g.all && r.Reason == wire.NotResumedTooFar: // all topics were too much
		return Replayed{Missing: &Gap{Patterns: f.Patterns, After: since.Seq}}
	case r.Reason == "" && !f.endsWith(r.events, since.Seq):
		// A server that led the stream once may report that there is no more although
		// there is.
		return Replayed{Reason: wire.NotResumedTooFar, CutShort: true}
	}
	return r
}

// bounded returns a replay of the events, unless they are too many.
func bounded(events []Event) Replayed {
	if len(events) > MaxReplay {
		return Replayed{Reason: wire.NotResumedTooFar}
	}
	return Replayed{events: events}
}

// endsWith reports whether the events after a position end with the last one of
// every topic.
func (f *Feed) endsWith(events []Event, seq uint64) bool {
	last := make(map[string]uint64, len(f.topics))
	for _, e := range events {
		last[e.Topic] = e.Seq
	}
	for t := range f.topics {
		if t.last != nil && t.seq > seq && last[t.name] != t.seq {
			return false
		}
	}
	return true
}

// HistoryFrom returns the position that the history begins after, and its era.
func (v *View) HistoryFrom() (from uint64, era int) { return v.history.from, v.history.era }

// HistoryReach returns the position up to which the stream must be read back for
// the history to go on after it, and the era.
func (v *View) HistoryReach() (to uint64, era int) { return v.history.reach(), v.history.era }

// Check looks for what the stream has dropped of the topics of a stretch, which
// was read while the history was of an era. If the history does not go on after
// the stretch any more, it stays unchecked.
func (v *View) Check(s *Stretch, era int) {
	if s.era = era; era == v.history.era {
		s.check(&v.history)
	}
}
