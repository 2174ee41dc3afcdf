package hub

import (
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/trust"
	"github.com/pollcast/pollcast/pkg/wire"
)

const (
	// silenceGrace is added to maxAge before a silent poll is called stale, for a
	// renewal that is on its way.
	silenceGrace = 250 * time.Millisecond
	// firstRecord is how long a poll whose events were seen may be without a
	// freshness record: the first one follows its first event.
	firstRecord = time.Second
)

// A pollState is what the hub knows of a poll.
type pollState struct {
	name   string
	record *event.Freshness // the last one; nil until one was seen
	seq    uint64           // of record
	// heard is when, on this clock, the newest fact about the poll was true: when
	// its last record was made, or when the request was sent that brought the last
	// event of its own topic. An event of a key is no fact about the other keys.
	heard time.Time
	lag   trust.Lag
	// asOf is that of the newest event of the poll's own topic, which came at
	// asOfSeq. It is ahead of the record until the record of the same tick comes.
	asOf    time.Time
	asOfSeq uint64
	walks   bool // the newest event has a position
	// published is what clients got last, so that only changes are sent.
	published   event.Freshness
	publishedAt uint64 // the hub's count of published freshness, then
	feeds       map[*Feed]struct{}
}

// fresh returns how far the poll's values can be trusted now.
func (p *pollState) fresh(now time.Time, busDown bool) event.Freshness {
	f := event.Freshness{Poll: p.name, Breaker: event.Closed}
	if p.record != nil {
		f = *p.record
	}
	switch ahead := p.asOfSeq > p.seq && p.asOf.After(f.AsOf); {
	case ahead && !p.walks && p.recent(p.asOf, now): // the record of that tick is on its way
		f = answered(f, p.asOf)
	case ahead: // eventFresh has the rest
		f.AsOf, f.CheckedAt = p.asOf, later(f.CheckedAt, p.asOf)
	}
	cut := event.Reason("")
	if busDown {
		cut = event.BusDisconnected
	}
	f, judged := trust.Judge(f, cut, trust.Until(p.heard, p.maxAge(), silenceGrace), now)
	if judged {
		f.CheckedAt, f.Fence = now.UTC().Truncate(time.Millisecond), 0
	}
	return f
}

// take makes f the poll's record. heard is when it was made or came.
func (p *pollState) take(f *event.Freshness, seq uint64, heard time.Time) {
	p.carry(f)
	p.record, p.seq = f, seq
	p.lag.Observe(f.CheckedAt, f.Fence, heard)
	p.heard = later(p.heard, p.lag.Here(f.CheckedAt, heard))
}

// takeEvent notes what an event of the poll shows about the poll.
func (p *pollState) takeEvent(e Event, heard time.Time) {
	if e.Topic == e.Poll || p.record == nil {
		p.heard = later(p.heard, p.lag.Here(e.AsOf, heard))
	}
	if e.Topic == e.Poll {
		p.asOf, p.asOfSeq, p.walks = later(p.asOf, e.AsOf), e.Seq, e.Position != nil
	}
}

// carry keeps in a record what the stream confirmed before it. A poller that has
// taken over, or that does not know whether its last event was stored, confirms
// less at first. A poller whose clock was set back means what it publishes: its
// record was made before what it takes back.
func (p *pollState) carry(f *event.Freshness) {
	known := p.asOf
	if p.record != nil {
		known = later(known, p.record.AsOf)
	}
	if known.After(f.AsOf) && !f.CheckedAt.Before(known) {
		f.AsOf = known
	}
}

// maxAge returns how long the poll may be silent.
func (p *pollState) maxAge() time.Duration {
	if p.record == nil {
		return firstRecord
	}
	return p.record.MaxAge()
}

// recent reports whether what was confirmed at a time by the poller's clock can
// still be trusted, if nothing else is known.
func (p *pollState) recent(asOf, now time.Time) bool {
	return now.Sub(p.lag.Here(asOf, now)) <= p.maxAge()+silenceGrace
}

// eventFresh returns how far an event's value can be trusted, given the poll's
// freshness. That is the poll's freshness, unless the event itself is the newer
// evidence: an event is published before the freshness record of the same tick,
// so the newest event of a poll may be ahead of its record. An event that was on
// its way for long is no evidence of now. An event with a position is none at all:
// the walk may be far behind its head.
func (p *pollState) eventFresh(e Event, f event.Freshness, now time.Time) event.Freshness {
	ahead := e.Position == nil && e.Seq > p.seq && e.AsOf.After(f.AsOf)
	if ahead && f.Reason != event.BusDisconnected && p.recent(e.AsOf, now) {
		f = answered(f, e.AsOf)
	}
	if f.AsOf.Before(e.AsOf) {
		f.AsOf = e.AsOf
	}
	return f
}

// answered returns a freshness after an answer that its record does not have yet.
func answered(f event.Freshness, asOf time.Time) event.Freshness {
	f.AsOf, f.CheckedAt = asOf, later(f.CheckedAt, asOf) // an answer is known after its request
	f.Stale, f.Reason, f.Detail = false, "", ""
	f.Breaker, f.ConsecutiveFailures, f.NextProbeAt = event.Closed, 0, time.Time{}
	return f
}

// eventFrame returns the frame of an event with a freshness.
func eventFrame(e Event, epoch string, phase wire.Phase, f event.Freshness, now time.Time) wire.ServerFrame {
	return wire.ServerFrame{Event: &wire.Event{
		Topic: e.Topic, Seq: e.Seq, Epoch: epoch, Version: e.Version, Phase: phase,
		ChangedAt: e.ChangedAt, AsOf: f.AsOf, AgeMs: max(0, now.Sub(f.AsOf).Milliseconds()),
		Stale: f.Stale, Reason: f.Reason, Breaker: f.Breaker,
		Deleted: e.Deleted, Key: e.Key, Poll: e.Poll, Upstream: e.Upstream, Data: e.Data,
		Position: e.Position, Reorganised: e.Reorganised,
	}}
}

// differs reports whether clients must get a freshness, given what was published
// last. CheckedAt alone is the gateway's own repetition.
func differs(published, now event.Freshness) bool {
	published.CheckedAt, now.CheckedAt = time.Time{}, time.Time{}
	return published != now
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
