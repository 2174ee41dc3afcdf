package client

import (
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/trust"
	"github.com/pollcast/pollcast/pkg/wire"
)

// silenceGrace is added to a record's maxAge before the client judges a poll
// silent. It is longer than the gateway's, which knows more and shall be the
// first to report it.
const silenceGrace = 900 * time.Millisecond

// store holds the last value of every topic and the freshness of every poll. The
// client's mutex guards it. Only the loop writes.
type store struct {
	topics map[string]*entry
	polls  map[string]*poll
	clock  clock // of the gateway in use
	// session counts the connections.
	session uint64
	epoch   string
	// seenSeq is the furthest position of this epoch's stream that gateways have
	// shown. Events of an older state of the stream are not new.
	seenSeq uint64
	// era counts the streams: it grows with a new epoch, and when the stream of
	// the same epoch was set back.
	era uint64
}

// entry is the last event of a topic.
type entry struct {
	ev    wire.Event
	epoch string
	era   uint64
	// asOfLocal is ev.AsOf in local time; it may be too early and is never too
	// late.
	asOfLocal time.Time
	// session is the last connection on which an event of the topic arrived.
	session uint64
}

// poll is what is known about a poll's freshness.
type poll struct {
	rec record
	// lost is set when the connection is lost, until the next one has confirmed
	// the poll. hold is set on a new connection until everything that was missed
	// has arrived. Until then the values may be older than the records that
	// arrive, so that these are staged. lost implies hold.
	lost, hold bool
	staged     *record
	// silent is set when the reader was informed of the silence.
	silent bool
	// session is the last connection on which a freshness frame arrived.
	session   uint64
	published state // of the last update
}

// record is a freshness record and what it means in local time.
type record struct {
	event.Freshness
	// full is set if a freshness frame brought the record. Events bring less.
	full bool
	// asOfLocal is AsOf in local time; zero when unknown. deadline is the time
	// until which the record holds.
	asOfLocal, deadline time.Time
}

// until returns the time until which the record holds without a newer one; zero
// for ever. A stale record holds: its reason is better than "silent".
func (r *record) until() time.Time {
	if r.Stale {
		return time.Time{}
	}
	return r.deadline
}

// state is what makes a Freshness differ from the one before.
type state struct {
	stale   bool
	reason  event.Reason
	breaker event.State
}

// unpublished differs from every state, so that the first Freshness is a change.
var unpublished = state{breaker: "unpublished"}

func newStore() store {
	return store{topics: map[string]*entry{}, polls: map[string]*poll{}}
}

// now returns the poll's freshness at this moment.
func (p *poll) now(now time.Time) Freshness {
	f := Freshness{Age: -1}
	if !p.rec.asOfLocal.IsZero() {
		f.Age = now.Sub(p.rec.asOfLocal)
	}
	var cut event.Reason
	if p.lost {
		cut = event.ConnectionLost
	}
	f.Freshness, f.Local = trust.Judge(p.rec.Freshness, cut, p.rec.until(), now)
	switch {
	case p.lost:
		f.Detail = "the connection to the gateway was lost"
	case f.Local:
		f.Detail = "no record for " + p.rec.MaxAge().String()
	}
	return f
}

// update returns the poll's freshness as an update.
func (p *poll) update(now time.Time) *Freshness {
	f := p.now(now)
	s := state{f.Stale, f.Reason, f.Breaker}
	f.Changed = s != p.published
	p.published = s
	return &f
}

// latest returns the newest record, which may be staged.
func (p *poll) latest() *record {
	if p.staged != nil {
		return p.staged
	}
	return &p.rec
}

// answered takes in the position of a gateway, which was asked not to be older
// than asked. It reports whether the stream is another one or was set back: then
// positions seen before mean nothing.
func (st *store) answered(epoch string, seq uint64, asked wire.Since) (reset bool) {
	setBack := asked.Epoch == epoch && seq < min(asked.Seq, st.seenSeq)
	if reset = st.epoch != epoch || setBack; reset {
		st.epoch, st.seenSeq = epoch, 0
		st.era++
	}
	st.seenSeq = max(st.seenSeq, seq)
	return reset
}

// value returns a topic's last event with its freshness at this moment.
func (st *store) value(e *entry, now time.Time) Event {
	out := Event{Event: e.ev, Epoch: e.epoch}
	asOfLocal := e.asOfLocal
	if p := st.polls[e.ev.Poll]; p != nil {
		f := p.now(now)
		out.Stale, out.Reason, out.Breaker, out.Detail = f.Stale, f.Reason, f.Breaker, f.Detail
		if f.AsOf.After(out.AsOf) { // the value was confirmed again since it was published
			out.AsOf = f.AsOf
			if p.rec.asOfLocal.After(asOfLocal) {
				asOfLocal = p.rec.asOfLocal
			}
		}
	}
	out.Age = now.Sub(asOfLocal)
	out.AgeMs = out.Age.Milliseconds()
	return out
}

// event takes in an event and returns when, in local time, its value was
// confirmed.
func (st *store) event(at time.Time, ev *wire.Event) (asOfLocal time.Time) {
	asOfLocal = st.clock.event(at, ev.AsOf, ev.AgeMs)
	e := st.topics[ev.Topic]
	if e != nil {
		e.session = st.session // the topic exists, also if the event is an old one
	}
	st.seenSeq = max(st.seenSeq, ev.Seq)
	if e == nil || e.era != st.era || ev.Seq >= e.ev.Seq {
		if e != nil && e.ev.AsOf.Equal(ev.AsOf) && e.asOfLocal.Before(asOfLocal) {
			asOfLocal = e.asOfLocal // of two estimates of one time the earlier is safe
		}
		if ev.Deleted {
			delete(st.topics, ev.Topic)
		} else {
			st.topics[ev.Topic] = &entry{ev: *ev, epoch: st.epoch, era: st.era, asOfLocal: asOfLocal, session: st.session}
		}
	}
	st.pollEvent(at, ev, asOfLocal)
	return asOfLocal
}

// pollEvent takes in what an event shows about its poll.
func (st *store) pollEvent(at time.Time, ev *wire.Event, asOfLocal time.Time) {
	p := st.polls[ev.Poll]
	if p == nil {
		p = &poll{published: unpublished, rec: record{asOfLocal: asOfLocal}}
		p.rec.Poll, p.rec.AsOf = ev.Poll, ev.AsOf
		p.rec.learn(ev)
		st.polls[ev.Poll] = p
		return
	}
	if ev.Phase == wire.Replay {
		return // it shows an earlier state
	}
	if p.hold && p.staged == nil {
		r := p.rec
		r.full = false
		p.staged = &r
	}
	r := p.latest()
	if !r.full {
		r.learn(ev)
	}
	if ev.AsOf.After(r.AsOf) {
		r.AsOf, r.asOfLocal = ev.AsOf, asOfLocal
	}
	if ev.Phase == wire.Live && !ev.Stale && r.MaxAgeMs > 0 {
		r.deadline = trust.Until(at, r.MaxAge(), silenceGrace)
	}
}

func (r *record) learn(ev *wire.Event) {
	r.Stale, r.Reason, r.Breaker = ev.Stale, ev.Reason, ev.Breaker
	if !r.Stale {
		r.Detail = ""
	}
}

// fresh takes in a freshness frame, as the poll's record or, while the poll is
// held, as its staged record.
func (st *store) fresh(at time.Time, f *event.Freshness) *poll {
	p := st.polls[f.Poll]
	if p == nil {
		p = &poll{published: unpublished}
		st.polls[f.Poll] = p
	}
	r := &record{Freshness: *f, full: true, asOfLocal: st.asOfLocal(p, at, f)}
	if f.MaxAgeMs > 0 {
		r.deadline = trust.Until(at, f.MaxAge(), silenceGrace)
	}
	p.session = st.session
	if p.hold {
		p.staged = r
	} else {
		p.rec = *r
	}
	return p
}

// asOfLocal returns a record's AsOf in local time. It may be too early and is
// never too late. It is zero when nothing is known.
func (st *store) asOfLocal(p *poll, at time.Time, f *event.Freshness) time.Time {
	before := p.latest()
	switch {
	case f.AsOf.IsZero():
		return time.Time{}
	case f.AsOf.Equal(before.AsOf) && !before.asOfLocal.IsZero():
		return before.asOfLocal
	}
	asOfLocal, ok := st.clock.local(at, f.AsOf)
	if p.session == st.session && !f.CheckedAt.IsZero() {
		// Only the first record on a connection may be an old one. This one was
		// made just now, and by the poller's clock its values were this old then.
		age := min(max(f.CheckedAt.Sub(f.AsOf), 0), trust.AgeLimit)
		live := at.Add(-age - st.clock.slack)
		if !ok || live.Before(asOfLocal) {
			asOfLocal, ok = live, true
		}
	}
	if !ok {
		return before.asOfLocal
	}
	return asOfLocal
}

// silentAt reports whether the poll is silent and the reader was not informed
// yet.
func (p *poll) silentAt(now time.Time) bool {
	until := p.rec.until()
	return !p.lost && !p.silent && !until.IsZero() && now.After(until)
}
