package record

import (
	"encoding/json"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/jq"
)

// drop notes that the stream holds nothing before first. It returns true if it
// held the event.
func (h *Held) Drop(first uint64) bool {
	if !h.Has || h.seq == 0 || h.seq >= first {
		return false
	}
	h.Has = false
	return true
}

// lastGood is the last value that an upstream gave for a topic. It outlives
// failures, lost leases and, through the stream, the process.
type LastGood struct {
	Value  json.RawMessage // nil: there never was one
	Digest jq.Digest
	// asOf is when the request was sent that last confirmed the value: the value
	// is never younger than its age says. It has a monotonic reading; records
	// carry what told makes of it.
	AsOf time.Time
	// own says that this process has confirmed it since it got the lease: nobody
	// knows better, whatever the clocks say.
	ConfirmedHere bool
	ChangedAt     time.Time
	// slot is that of the tick that first saw the value, or, where every reading
	// is an event, of the last.
	Slot     time.Time
	Upstream string
}

// take keeps a new reading: a value that was asked for at sent. With always,
// one that is the same is an event too.
func (g *LastGood) Take(value json.RawMessage, d jq.Digest, sent, slot time.Time, upstream string, always bool) {
	if g.Value == nil || g.Digest != d {
		g.Value, g.Digest = value, d
		g.ChangedAt, g.Slot, g.Upstream = clock.Stamp(sent), slot, upstream
	}
	if always {
		g.Slot, g.Upstream = slot, upstream
	}
	g.AsOf, g.ConfirmedHere = sent, true
}

// held is what the stream holds of a topic, as far as this process knows.
type Held struct {
	// version is the topic's last; it never goes down, even if the stream is
	// lost.
	Version uint64
	Digest  jq.Digest
	Slot    time.Time // of the value
	Has     bool      // the stream holds a value
	seq     uint64    // of its event in the stream; 0 if that is not known
}

// misses says that the stream does not hold a value. With always, each reading
// is one of its own.
func (h *Held) Misses(g *LastGood, always bool) bool {
	return g.Value != nil && (!h.Has || h.Digest != g.Digest || always && !h.Slot.Equal(g.Slot))
}

// learn brings h to the event that the stream holds, or nil. seq is its place,
// 0 if that is not known.
func (h *Held) Learn(e *event.Event, seq uint64, ignore []jq.Path) {
	h.Has, h.seq = false, seq
	if e == nil {
		return
	}
	h.Version = max(h.Version, e.Version)
	if d, err := jq.DigestOf(e.Data, ignore); err == nil && !e.Deleted {
		h.Digest, h.Slot, h.Has = d, e.ChangedAt, true
	}
}

// recognise says of which slot the event is that the stream holds, if it is the
// reading which is known: where each reading is an event, it is not said twice.
func (h *Held) Recognise(g *LastGood, e *event.Event, now time.Time) {
	if e != nil && h.Has && g.Value != nil && h.Digest == g.Digest && e.AsOf.Equal(clock.WallTime(g.AsOf, now)) {
		h.Slot = g.Slot
	}
}

// restore takes the stream's value unless the one in memory was confirmed
// later, as it is when NATS was away longer than the lease.
func (g *LastGood) Restore(r Recovered, d jq.Digest, now time.Time) {
	if r.Event == nil || r.Event.Deleted {
		return
	}
	at := clock.Anchor(r.AsOf(), now)
	if g.Value != nil && (g.ConfirmedHere || !g.AsOf.Before(at)) {
		return
	}
	*g = LastGood{
		Value: r.Event.Data, Digest: d, AsOf: at,
		ChangedAt: r.Event.ChangedAt, Slot: r.Event.ChangedAt, Upstream: r.Event.Upstream,
	}
}

// same reports whether the event stored under a message id is the one that was
// to be stored, whose acknowledgement was lost. If so, h knows it.
func (h *Held) same(in *event.Event, want *event.Event, d jq.Digest, slot time.Time, ignore []jq.Path) bool {
	if in == nil { // the id is remembered, the message is gone
		return false
	}
	// An older one is no answer: the wall clock was set back, and comes by the
	// same slots again.
	if in.Version <= h.Version {
		return false
	}
	h.Version = in.Version
	if in.Deleted != want.Deleted {
		return false
	}
	if have, err := jq.DigestOf(in.Data, ignore); !in.Deleted && (err != nil || have != d) {
		return false
	}
	h.Digest, h.Slot, h.Has = d, slot, !in.Deleted
	return true
}
