package poller

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/event"
)

// A poll that follows publishes every position of a sequence once, in order.
// Where it is, only the stream knows: in the position of the topic's last
// event, or, when a full stream has dropped that, in the freshness record. So a
// tick asks for nothing more while something is not stored, and a new owner
// first makes the stream refuse the old one (its freshness record is the guard
// of every event, see publish.go), then looks at the stream's leader, and only
// then walks on. What was read and not stored is read again.

// follower is what a poll that follows needs beside a poll.
type follower struct {
	*sequence

	// Guarded by the poll's mu.
	at    cursor  // stored
	queue []*step // to be stored next, in this order
	// starved says that a tick could not walk before the stream was read.
	starved  bool
	out      walked    // the last
	asked    bool      // there was one
	headAt   time.Time // when the head was asked for that the last walk reached; zero: it did not
	reached  time.Time // the last such time of which all is stored
	still    bool      // the head stands still
	lowSince time.Time // when the head was first below the position; zero: it is not
}

// resume takes the walk up under a new tenure. What was read and not stored is
// read again.
func (f *follower) resume(r remains, now time.Time) {
	if r.fresh != nil && !r.fresh.Stale {
		f.reached = later(f.reached, anchor(r.fresh.AsOf, now))
	}
	f.queue, f.starved, f.headAt, f.lowSince = nil, false, time.Time{}, time.Time{}
	f.out = walked{}
	f.learn(r.event)
	if at := r.place; at != nil && (!f.at.known || at.Version > f.at.version) {
		f.at = cursor{known: true, position: at.Position, version: at.Version}
		if at.By == f.follow.ID {
			f.at.id = string(at.ID)
		}
	}
}

// place is where the walk is, for the next owner; nil while nothing is stored.
func (f *follower) place() *event.Place {
	if !f.at.known {
		return nil
	}
	at := &event.Place{Position: f.at.position, Version: f.at.version}
	if f.at.id != "" {
		at.ID, at.By = json.RawMessage(f.at.id), f.follow.ID
	}
	return at
}

// inherit takes over where a walk with another configuration is.
func (f *follower) inherit(old *follower) {
	f.at, f.out, f.asked, f.reached = old.at, old.out, old.asked, old.reached
	if f.follow.ID != old.follow.ID {
		f.at.id = ""
	}
}

// learn brings the walk to the last event that the stream holds. What memory
// has above it, because the stream was made anew, stays.
func (f *follower) learn(e *event.Event) {
	if e == nil || e.Position == nil {
		return
	}
	// One of ours, whose acknowledgement was lost?
	if i := slices.IndexFunc(f.queue, func(s *step) bool {
		return s.event.Version == e.Version && *s.event.Position == *e.Position && s.event.Reorganised == e.Reorganised
	}); i >= 0 {
		f.advance(i + 1)
		return
	}
	if !f.at.known || e.Version > f.at.version {
		f.at, f.queue = f.cursorOf(context.Background(), e), nil
	}
}

// advance moves over n steps of the queue, which are stored.
func (f *follower) advance(n int) {
	if n == 0 {
		return
	}
	last := f.queue[n-1]
	f.at = cursor{known: true, position: *last.event.Position, id: last.id, version: last.event.Version}
	f.queue = f.queue[n:]
}

// walkFrom is what the next tick may walk.
func (p *poll) walkFrom(now time.Time) walkFrom {
	f := p.follow
	from := walkFrom{at: f.at}
	switch f.starved = !p.stored.alone; {
	case len(f.queue) > 0:
		from.why = "what was found before is not stored yet"
	case p.stored.alone:
		from.room = f.follow.MaxPerTick
	}
	if !f.lowSince.IsZero() {
		from.low = now.Sub(f.lowSince)
	}
	return from
}

// takeWalk keeps what a tick has found, also one that failed at a later
// position.
func (p *poll) takeWalk(r reading, w walked, now time.Time) {
	f := p.follow
	if w.from != f.at { // the stream turned out to hold something else
		return
	}
	f.out, f.headAt, f.asked = w, time.Time{}, f.asked || r.failure == nil
	f.queue = append(f.queue, w.steps...)
	f.out.steps = nil
	if r.failure != nil {
		return
	}
	switch {
	case !w.low:
		f.lowSince = time.Time{}
	case f.lowSince.IsZero():
		f.lowSince = now
	}
	if w.whole {
		f.headAt = r.sent
	}
	for _, s := range w.steps {
		if s.event.Reorganised {
			p.log.Warn("positions taken back: the sequence was reorganised or has shrunk", "to", *s.event.Position, "head", r.head)
		}
	}
}

// reflectWalk says what is so after a tick without a failure, and when what it
// found is stored: the value is fresh when the head was reached, and for maxAge
// after that, while the walk catches up.
func (p *poll) reflectWalk(now time.Time) {
	f := p.follow
	if len(f.queue) == 0 && !f.headAt.IsZero() {
		p.good.asOf, f.reached, f.headAt = f.headAt, f.headAt, time.Time{}
	}
	if breaker, _, _ := p.upstreams.breaker(); breaker != event.Closed || p.failures > 0 {
		return
	}
	switch behind := now.Sub(f.reached) > p.config.MaxAge; {
	case f.still:
		p.markStale(event.NotAdvancing, p.standsStill(), now)
	case !behind:
		p.markFresh(now)
	case !f.headAt.IsZero(): // as soon as it is stored
	case f.out.why != "":
		p.markStale(event.NotAdvancing, "behind the head: "+f.out.why, now)
	}
}

// settleWalk learns how publishing went.
func (p *poll) settleWalk(d putDone, now time.Time) {
	f := p.follow
	n := 0
	for n < len(f.queue) && f.queue[n].done {
		n++
	}
	if n > 0 {
		p.good.changedAt, p.good.asOf = f.queue[n-1].event.ChangedAt, f.queue[n-1].sent
	}
	f.advance(n)
	if found := p.stored.found; found != nil {
		f.learn(found.event)
		p.good.asOf = later(p.good.asOf, anchor(found.asOf(), now))
		p.stored.found = nil
	}
	if p.stored.alone && f.starved {
		f.starved, p.extraAt = false, now
	}
	if len(f.queue) == 0 && !f.headAt.IsZero() {
		p.reflectWalk(now)
	}
}

// nextWalk adds the walk's part to a job: first the fence with a look at the
// stream, then the steps, then, when they are stored, the freshness they make.
func (p *poll) nextWalk(j *job, now time.Time) {
	f := p.follow
	j.place = f.place()
	switch {
	case !p.stored.alone:
		if j.fresh == nil {
			fresh := p.record(now)
			j.fresh, j.circuits = &fresh, p.upstreams.circuits()
		}
		j.fence = j.fresh
	case len(f.queue) > 0:
		j.steps, j.fresh = f.queue, nil
		for _, s := range j.steps {
			s.event.AsOf = told(s.sent, now)
			s.event.ChangedAt = s.event.AsOf
		}
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// tell adds to a status where the walk is.
func (f *follower) tell(s *PollStatus) {
	if f.at.known {
		s.Position = new(f.at.position)
	}
	if f.asked {
		s.Head = new(f.out.head)
	}
	s.Unpublished = s.Unpublished || len(f.queue) > 0
}

// putSteps publishes the steps of a job, one after the other.
func (p *publisher) putSteps(ctx context.Context, j job, st *stored) error {
	for _, s := range j.steps {
		s.event.Version, s.event.Fence = st.version+1, j.tenure.fence
		if _, err := p.send(ctx, "event", p.names.EventMsg(s.event, j.slot), p.names.InFresh(j.topic), st.guard, j.tenure); err != nil {
			return err
		}
		s.done, st.version = true, s.event.Version
	}
	return nil
}

// past calls each for the events of a topic among the last messages of the
// stream, oldest first; 0 is all messages.
func (p *publisher) past(ctx context.Context, topic string, messages uint64, each func(*event.Event)) error {
	state, err := bus.State(ctx, p.js, p.names)
	if err != nil {
		return err
	}
	from := uint64(1)
	if messages > 0 && state.LastSeq > messages {
		from = state.LastSeq - messages
	}
	return p.names.Range(ctx, p.nc, p.names.In(topic), from, state.LastSeq, func(m *nats.Msg) {
		if d, err := p.names.Decode(m); err == nil && d.Event != nil {
			each(d.Event)
		}
	})
}
