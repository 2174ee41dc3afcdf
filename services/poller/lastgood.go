package poller

import (
	"encoding/json"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
)

// lastGood is the last value that an upstream gave for a topic. It outlives
// failures, lost leases and, through the stream, the process.
type lastGood struct {
	value  json.RawMessage // nil: there never was one
	digest digest
	// asOf is when the request was sent that last confirmed the value: the value
	// is never younger than its age says. It has a monotonic reading; records
	// carry what told makes of it.
	asOf time.Time
	// own says that this process has confirmed it since it got the lease: nobody
	// knows better, whatever the clocks say.
	own       bool
	changedAt time.Time
	// slot is that of the tick that first saw the value, or, where every reading
	// is an event, of the last.
	slot     time.Time
	upstream string
}

// take keeps a new reading: a value that was asked for at sent. With always,
// one that is the same is an event too.
func (g *lastGood) take(value json.RawMessage, d digest, sent, slot time.Time, upstream string, always bool) {
	if g.value == nil || g.digest != d {
		g.value, g.digest = value, d
		g.changedAt, g.slot, g.upstream = stamp(sent), slot, upstream
	}
	if always {
		g.slot, g.upstream = slot, upstream
	}
	g.asOf, g.own = sent, true
}

// held is what the stream holds of a topic, as far as this process knows.
type held struct {
	// version is the topic's last; it never goes down, even if the stream is
	// lost.
	version uint64
	digest  digest
	slot    time.Time // of the value
	has     bool      // the stream holds a value
	seq     uint64    // of its event in the stream; 0 if that is not known
}

// misses says that the stream does not hold a value. With always, each reading
// is one of its own.
func (h *held) misses(g *lastGood, always bool) bool {
	return g.value != nil && (!h.has || h.digest != g.digest || always && !h.slot.Equal(g.slot))
}

// learn brings h to the event that the stream holds, or nil. seq is its place,
// 0 if that is not known.
func (h *held) learn(e *event.Event, seq uint64, ignore []path) {
	h.has, h.seq = false, seq
	if e == nil {
		return
	}
	h.version = max(h.version, e.Version)
	if d, err := digestOf(e.Data, ignore); err == nil && !e.Deleted {
		h.digest, h.slot, h.has = d, e.ChangedAt, true
	}
}

// recognise says of which slot the event is that the stream holds, if it is the
// reading which is known: where each reading is an event, it is not said twice.
func (h *held) recognise(g *lastGood, e *event.Event, now time.Time) {
	if e != nil && h.has && g.value != nil && h.digest == g.digest && e.AsOf.Equal(told(g.asOf, now)) {
		h.slot = g.slot
	}
}

// stored is what the stream holds of a poll, as far as this process knows.
type stored struct {
	held         // the poll's own topic; empty if the poll has keys
	guard uint64 // sequence number of fresh; 0 when there is none
	fresh *event.Freshness
	// circuits came with fresh.
	circuits []event.Circuit
	// shut: the last freshness record is ours, and is younger than anything that
	// may still be on its way, which the stream therefore refuses.
	shut bool
	// alone: and what the stream holds was read after that.
	alone bool
	// found is what a publish read back from the stream, if it did.
	found *remains
}

// doubt is s after an event of which nobody knows whether it will be stored.
func (s stored) doubt() stored {
	s.shut, s.alone = false, false
	return s
}

// remains is what the stream gave back for one poll.
type remains struct {
	event    *event.Event
	eventSeq uint64 // 0 if it is not known
	fresh    *event.Freshness
	freshSeq uint64
	circuits []event.Circuit         // came with fresh
	place    *event.Place            // likewise
	keys     map[string]*event.Event // by the last token of their topics
	keySeqs  map[string]uint64       // likewise, where they are known
}

// fence is the highest under which any of it was published.
func (r remains) fence() uint64 {
	var f uint64
	if r.event != nil {
		f = r.event.Fence
	}
	if r.fresh != nil {
		f = max(f, r.fresh.Fence)
	}
	for _, e := range r.keys {
		f = max(f, e.Fence)
	}
	return f
}

// asOf is when the stored value was last confirmed: the event knows when it
// was published, the freshness record what happened since. Which of the two is
// the later one the stream says: by their times a clock that was set back would
// make a value younger than it is.
func (r remains) asOf() time.Time {
	switch {
	case r.event == nil:
		return time.Time{}
	case r.fresh == nil, r.fresh.AsOf.IsZero():
		return r.event.AsOf
	case r.eventSeq != 0 && r.freshSeq != 0:
		if r.freshSeq > r.eventSeq {
			return r.fresh.AsOf
		}
		return r.event.AsOf
	case r.fresh.AsOf.After(r.event.AsOf):
		return r.fresh.AsOf
	}
	return r.event.AsOf
}

// learn brings s to what the stream holds.
func (s *stored) learn(r remains, ignore []path) {
	s.held.learn(r.event, r.eventSeq, ignore)
	if r.place != nil {
		s.version = max(s.version, r.place.Version)
	}
	s.guard, s.fresh, s.circuits, s.found = r.freshSeq, r.fresh, r.circuits, &r
}

// restore takes the stream's value unless the one in memory was confirmed
// later, as it is when NATS was away longer than the lease.
func (g *lastGood) restore(r remains, d digest, now time.Time) {
	if r.event == nil || r.event.Deleted {
		return
	}
	at := anchor(r.asOf(), now)
	if g.value != nil && (g.own || !g.asOf.Before(at)) {
		return
	}
	*g = lastGood{
		value: r.event.Data, digest: d, asOf: at,
		changedAt: r.event.ChangedAt, slot: r.event.ChangedAt, upstream: r.event.Upstream,
	}
}
