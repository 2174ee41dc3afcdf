package gateway

import (
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
)

// silenceGrace is added to maxAge before a silent poll is called stale, for a
// renewal that is on its way.
const silenceGrace = 250 * time.Millisecond

// firstRecord is how long a poll whose events were seen may be without a
// freshness record: the first one follows its first event.
const firstRecord = time.Second

// A pollState is what the gateway knows of a poll.
type pollState struct {
	name string
	// record is the last freshness record; nil until one was seen.
	record *event.Freshness
	seq    uint64
	// heard is when, on this clock, the newest thing known of the poll was so: its
	// last record was made, or the request sent that brought the last event of
	// its own topic. An event of a key says nothing of the other keys.
	heard time.Time
	lag   lag
	// asOf is that of the newest event of the poll's own topic, which came at
	// asOfSeq. It is ahead of the record until the one of the same tick comes.
	asOf    time.Time
	asOfSeq uint64
	walks   bool // the newest event has a position
	// told is what clients were last told, so that only changes are sent.
	told   event.Freshness
	toldAt uint64 // the hub's count of freshness told, then
	feeds  map[*feed]struct{}
}

// fresh is how far the poll's values can be trusted now.
func (p *pollState) fresh(now time.Time, busDown bool) event.Freshness {
	f := event.Freshness{Poll: p.name, Breaker: event.Closed}
	if p.record != nil {
		f = *p.record
	}
	switch ahead := p.asOfSeq > p.seq && p.asOf.After(f.AsOf); {
	case ahead && !p.walks && p.recent(p.asOf, now): // the record of that tick is on its way
		f = answered(f, p.asOf)
	case ahead: // trust says why
		f.AsOf, f.CheckedAt = p.asOf, later(f.CheckedAt, p.asOf)
	}
	switch {
	case busDown:
		f.Stale, f.Reason, f.Detail = true, event.BusDisconnected, ""
	case now.Sub(p.heard) > p.maxAge()+silenceGrace:
		f.Stale, f.Reason, f.Detail = true, event.PollerSilent, ""
	default:
		return f
	}
	f.CheckedAt, f.Fence = now.UTC().Truncate(time.Millisecond), 0
	return f
}

// carry keeps in a record what the stream says was confirmed before it. A poller
// that has taken over, or that does not know whether its last event was stored,
// says less at first. One whose clock was set back means it: its record was made
// before what it takes back.
func (p *pollState) carry(f *event.Freshness) {
	known := p.asOf
	if p.record != nil {
		known = later(known, p.record.AsOf)
	}
	if known.After(f.AsOf) && !f.CheckedAt.Before(known) {
		f.AsOf = known
	}
}

// maxAge is how long the poll may be silent.
func (p *pollState) maxAge() time.Duration {
	if p.record == nil {
		return firstRecord
	}
	return p.record.MaxAge()
}

// recent reports whether what was confirmed at a time by the poller's clock can
// still be trusted, if nothing else is known.
func (p *pollState) recent(asOf, now time.Time) bool {
	return now.Sub(p.lag.here(asOf, now)) <= p.maxAge()+silenceGrace
}

// trust is what an event frame says of its value: the poll's freshness, unless
// the event itself is the newer evidence. An event is published before the
// freshness record of the same tick, so the newest event of a poll may be ahead
// of its record. One that was on its way for long is no evidence of now, and one
// with a position is none at all: the walk may be far behind its head.
func (p *pollState) trust(e *event.Event, seq uint64, f event.Freshness, now time.Time) event.Freshness {
	ahead := e.Position == nil && seq > p.seq && e.AsOf.After(f.AsOf)
	if ahead && f.Reason != event.BusDisconnected && p.recent(e.AsOf, now) {
		f = answered(f, e.AsOf)
	}
	if f.AsOf.Before(e.AsOf) {
		f.AsOf = e.AsOf
	}
	return f
}

// answered is a freshness after an answer that its record does not know of yet.
func answered(f event.Freshness, asOf time.Time) event.Freshness {
	f.AsOf, f.CheckedAt = asOf, later(f.CheckedAt, asOf) // it was found out after it was asked
	f.Stale, f.Reason, f.Detail = false, "", ""
	f.Breaker, f.ConsecutiveFailures, f.NextProbeAt = event.Closed, 0, time.Time{}
	return f
}

// eventFrame is the frame of an event under a freshness.
func eventFrame(e *event.Event, seq uint64, phase wire.Phase, f event.Freshness, now time.Time) wire.ServerFrame {
	return wire.ServerFrame{Event: &wire.Event{
		Topic: e.Topic, Seq: seq, Version: e.Version, Phase: phase,
		ChangedAt: e.ChangedAt, AsOf: f.AsOf, AgeMs: max(0, now.Sub(f.AsOf).Milliseconds()),
		Stale: f.Stale, Reason: f.Reason, Breaker: f.Breaker,
		Deleted: e.Deleted, Key: e.Key, Poll: e.Poll, Upstream: e.Upstream, Data: e.Data,
		Position: e.Position, Reorganised: e.Reorganised,
	}}
}

// worthTelling reports whether clients must hear of the change from what they
// were told: everything but a gateway's own repetition.
func worthTelling(told, now event.Freshness) bool {
	told.CheckedAt, now.CheckedAt = time.Time{}, time.Time{}
	return told != now
}
