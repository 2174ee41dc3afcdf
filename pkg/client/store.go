package client

import (
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/trust"
	"github.com/pollcast/pollcast/pkg/wire"
)

// silenceGrace is how long after a record's maxAge a poll counts as silent: the
// gateway, which knows more, shall be first to say so.
const silenceGrace = 900 * time.Millisecond

// store holds the last value of every topic and the freshness of every poll.
// The client's mutex guards it; only the loop writes.
type store struct {
	topics map[string]*entry
	polls  map[string]*poll
	clock  clock // of the gateway in use
	// session counts the connections.
	session uint64
	epoch   string
	// high is the furthest that the gateways have shown the stream of this epoch.
	// An older state of it must not be taken for news.
	high uint64
	// era counts the streams: another epoch, and the same set back, begin anew.
	era uint64
}

// entry is the last event of a topic.
type entry struct {
	ev    wire.Event
	epoch string
	era   uint64
	// born is when, in local time, ev.AsOf was; never later than it was.
	born time.Time
	// session is the last connection on which an event of the topic arrived.
	session uint64
}

// poll is what is known about a poll's freshness.
type poll struct {
	rec record
	// lost says that the connection was lost and the poll is not confirmed yet
	// by the next one. hold says that on a new connection not everything that
	// was missed has arrived: the values at hand may be older than the records
	// that come meanwhile, so these are staged until then. lost implies hold.
	lost, hold bool
	staged     *record
	// silent says that the reader was told of the silence.
	silent bool
	// session is the last connection on which a freshness frame arrived.
	session uint64
	told    state
}

// record is a freshness record and what it means in local time.
type record struct {
	event.Freshness
	// full says that a freshness frame gave it; otherwise events did, which
	// know less.
	full bool
	// born is when AsOf was; zero when unknown. deadline is until when it holds.
	born, deadline time.Time
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

// untold differs from every state: the first Freshness is a change.
var untold = state{breaker: "untold"}

func newStore() store {
	return store{topics: map[string]*entry{}, polls: map[string]*poll{}}
}

// now returns the poll's freshness at this moment.
func (p *poll) now(now time.Time) Freshness {
	f := Freshness{Age: -1}
	if !p.rec.born.IsZero() {
		f.Age = now.Sub(p.rec.born)
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
	f.Changed = s != p.told
	p.told = s
	return &f
}

// latest is the newest record, whether or not it counts yet.
func (p *poll) latest() *record {
	if p.staged != nil {
		return p.staged
	}
	return &p.rec
}

// answered takes in where a gateway stands that was told how far the stream had
// been seen. It reports whether the stream is another one, or was set back: what
// is known of it is no measure of what comes.
func (st *store) answered(epoch string, seq uint64, told wire.Since) (anew bool) {
	setBack := told.Epoch == epoch && seq < min(told.Seq, st.high)
	if anew = st.epoch != epoch || setBack; anew {
		st.epoch, st.high = epoch, 0
		st.era++
	}
	st.high = max(st.high, seq)
	return anew
}

// value returns a topic's last event with its freshness at this moment.
func (st *store) value(e *entry, now time.Time) Event {
	out := Event{Event: e.ev, Epoch: e.epoch}
	born := e.born
	if p := st.polls[e.ev.Poll]; p != nil {
		f := p.now(now)
		out.Stale, out.Reason, out.Breaker, out.Detail = f.Stale, f.Reason, f.Breaker, f.Detail
		if f.AsOf.After(out.AsOf) { // the value was confirmed again since it was published
			out.AsOf = f.AsOf
			if p.rec.born.After(born) {
				born = p.rec.born
			}
		}
	}
	out.Age = now.Sub(born)
	out.AgeMs = out.Age.Milliseconds()
	return out
}

// event takes an event in and returns when, in local time, its value was
// confirmed.
func (st *store) event(at time.Time, ev *wire.Event) (born time.Time) {
	born = st.clock.event(at, ev.AsOf, ev.AgeMs)
	e := st.topics[ev.Topic]
	if e != nil {
		e.session = st.session // it is spoken of, if only with what is known
	}
	st.high = max(st.high, ev.Seq)
	if e == nil || e.era != st.era || ev.Seq >= e.ev.Seq {
		if e != nil && e.ev.AsOf.Equal(ev.AsOf) && e.born.Before(born) {
			born = e.born // two estimates of one moment: the older is safe
		}
		if ev.Deleted {
			delete(st.topics, ev.Topic)
		} else {
			st.topics[ev.Topic] = &entry{ev: *ev, epoch: st.epoch, era: st.era, born: born, session: st.session}
		}
	}
	st.pollEvent(at, ev, born)
	return born
}

// pollEvent takes in what an event says about its poll.
func (st *store) pollEvent(at time.Time, ev *wire.Event, born time.Time) {
	p := st.polls[ev.Poll]
	if p == nil {
		p = &poll{told: untold, rec: record{born: born}}
		p.rec.Poll, p.rec.AsOf = ev.Poll, ev.AsOf
		p.rec.says(ev)
		st.polls[ev.Poll] = p
		return
	}
	if ev.Phase == wire.Replay {
		return // it tells of the past
	}
	if p.hold && p.staged == nil {
		r := p.rec
		r.full = false
		p.staged = &r
	}
	r := p.latest()
	if !r.full {
		r.says(ev)
	}
	if ev.AsOf.After(r.AsOf) {
		r.AsOf, r.born = ev.AsOf, born
	}
	if ev.Phase == wire.Live && !ev.Stale && r.MaxAgeMs > 0 {
		r.deadline = trust.Until(at, r.MaxAge(), silenceGrace)
	}
}

func (r *record) says(ev *wire.Event) {
	r.Stale, r.Reason, r.Breaker = ev.Stale, ev.Reason, ev.Breaker
	if !r.Stale {
		r.Detail = ""
	}
}

// fresh takes a freshness frame in, as the poll's record or, while that is
// held, as its next one.
func (st *store) fresh(at time.Time, f *event.Freshness) *poll {
	p := st.polls[f.Poll]
	if p == nil {
		p = &poll{told: untold}
		st.polls[f.Poll] = p
	}
	r := &record{Freshness: *f, full: true, born: st.born(p, at, f)}
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

// born returns when, in local time, a record's AsOf was; never later than it
// was, and zero when nothing tells.
func (st *store) born(p *poll, at time.Time, f *event.Freshness) time.Time {
	before := p.latest()
	switch {
	case f.AsOf.IsZero():
		return time.Time{}
	case f.AsOf.Equal(before.AsOf) && !before.born.IsZero():
		return before.born
	}
	born, ok := st.clock.local(at, f.AsOf)
	if p.session == st.session && !f.CheckedAt.IsZero() {
		// Not the first on this connection, so it was made just now, and how old
		// the values were then, it says by the poller's clock alone.
		age := min(max(f.CheckedAt.Sub(f.AsOf), 0), trust.AgeLimit)
		live := at.Add(-age - st.clock.slack)
		if !ok || live.Before(born) {
			born, ok = live, true
		}
	}
	if !ok {
		return before.born
	}
	return born
}

// silentAt reports whether the poll has been silent for too long and the reader
// has not been told.
func (p *poll) silentAt(now time.Time) bool {
	until := p.rec.until()
	return !p.lost && !p.silent && !until.IsZero() && now.After(until)
}
