package record

import (
	"encoding/json"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/jq"
)

// LastGood is the last value that an upstream gave for a topic. It outlives
// failures, lost leases and, through the stream, the process.
type LastGood struct {
	Value  json.RawMessage // nil: there never was one
	Digest jq.Digest
	// AsOf is when the request was sent that last confirmed the value. It is a time of
	// this process; records carry what clock.WallTime makes of it.
	AsOf time.Time
	// ConfirmedHere: this process has confirmed the value since it got the lease.
	// Nobody knows better, whatever the clocks say.
	ConfirmedHere bool
	ChangedAt     time.Time // by the wall clock
	// Slot is that of the tick that first gave the value or, where every reading is an
	// event, of the last tick.
	Slot     time.Time
	Upstream string // that gave it
}

// Take keeps a value that was asked for at sent. With always, a value that is the
// same is an event too.
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

// Restore takes the stream's value, unless the one in memory was confirmed later, as
// it is when NATS was away for longer than the lease. d is the digest of the stream's.
func (g *LastGood) Restore(l Last, d jq.Digest, now time.Time) {
	if l.Event == nil || l.Event.Deleted {
		return
	}
	at := clock.Anchor(l.AsOf(), now)
	if g.Value != nil && (g.ConfirmedHere || !g.AsOf.Before(at)) {
		return
	}
	*g = LastGood{
		Value: l.Event.Data, Digest: d, AsOf: at,
		ChangedAt: l.Event.ChangedAt, Slot: l.Event.ChangedAt, Upstream: l.Event.Upstream,
	}
}

// Copy is what the stream holds of a topic, as far as this process knows.
type Copy struct {
	// Version is the topic's last. It never goes down, even if the stream is lost.
	Version uint64
	Digest  jq.Digest
	Slot    time.Time // of the value
	Has     bool      // the stream holds a value
	seq     uint64    // of its event in the stream; 0: not known
}

// Misses says that the stream does not hold a value. With always, each reading is a
// value of its own.
func (c *Copy) Misses(g *LastGood, always bool) bool {
	return g.Value != nil && (!c.Has || c.Digest != g.Digest || always && !c.Slot.Equal(g.Slot))
}

// Learn brings c to the event that the stream holds; none if that is nil.
func (c *Copy) Learn(l Last, ignore []jq.Path) {
	e := l.Event
	if c.Has, c.seq = false, l.EventSeq; e == nil {
		return
	}
	c.Version = max(c.Version, e.Version)
	if d, err := jq.DigestOf(e.Data, ignore); err == nil && !e.Deleted {
		c.Digest, c.Slot, c.Has = d, e.ChangedAt, true
	}
}

// Recognise gives the event that the stream holds the slot of the reading, if it is
// the same reading: where each reading is an event, it is not published twice.
func (c *Copy) Recognise(g *LastGood, e *event.Event, now time.Time) {
	if e != nil && c.Has && g.Value != nil && c.Digest == g.Digest && e.AsOf.Equal(clock.WallTime(g.AsOf, now)) {
		c.Slot = g.Slot
	}
}

// Drop notes that the stream holds nothing before the sequence number first. It
// returns true if that drops the value.
func (c *Copy) Drop(first uint64) bool {
	if !c.Has || c.seq == 0 || c.seq >= first {
		return false
	}
	c.Has = false
	return true
}

// recognises reports whether the event stored under the message id of a change is
// that change, whose acknowledgement was lost. If so, c knows it.
func (c *Copy) recognises(stored *event.Event, change *Change, ignore []jq.Path) bool {
	// Without an event the id is remembered and the message is gone. An older version
	// is no answer: the wall clock was set back, and the same slots come again.
	if stored == nil || stored.Version <= c.Version {
		return false
	}
	c.Version = stored.Version
	if stored.Deleted != change.Event.Deleted {
		return false
	}
	if d, err := jq.DigestOf(stored.Data, ignore); !stored.Deleted && (err != nil || d != change.Digest) {
		return false
	}
	c.Digest, c.Slot, c.Has = change.Digest, change.Slot, !stored.Deleted
	return true
}
