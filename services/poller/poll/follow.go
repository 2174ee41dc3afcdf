package poll

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/ask"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/record"
	"github.com/pollcast/pollcast/services/poller/walk"
)

// A poll that follows publishes every position of a sequence once, in order.
// Where it is, only the stream knows: in the position of the topic's last
// event, or, when a full stream has dropped that, in the freshness record. So a
// tick asks for nothing more while something is not stored, and a new owner
// first makes the stream refuse the old one (its freshness record is the guard
// of every event, see publish.go), then looks at the stream's leader, and only
// then walks on. What was read and not stored is read again.

// follower is what a poll that follows needs beside a poll.
type Follower struct {
	*walk.Sequence

	// Guarded by the poll's mu.
	At    walk.Cursor    // stored
	queue []*record.Step // to be stored next, in this order
	// starved says that a tick could not walk before the stream was read.
	starved  bool
	out      walk.Walked // the last
	asked    bool        // there was one
	headAt   time.Time   // when the head was asked for that the last walk reached; zero: it did not
	reached  time.Time   // the last such time of which all is stored
	still    bool        // the head stands still
	lowSince time.Time   // when the head was first below the position; zero: it is not
}

// resume takes the walk up under a new tenure. What was read and not stored is
// read again.
func (f *Follower) resume(r record.Recovered, now time.Time) {
	if r.Fresh != nil && !r.Fresh.Stale {
		f.reached = clock.Later(f.reached, clock.Anchor(r.Fresh.AsOf, now))
	}
	f.queue, f.starved, f.headAt, f.lowSince = nil, false, time.Time{}, time.Time{}
	f.out = walk.Walked{}
	f.learn(r.Event)
	if at := r.Place; at != nil && (!f.At.Known || at.Version > f.At.Version) {
		f.At = walk.Cursor{Known: true, Position: at.Position, Version: at.Version}
		if at.By == f.Follow.ID {
			f.At.Id = string(at.ID)
		}
	}
}

// place is where the walk is, for the next owner; nil while nothing is stored.
func (f *Follower) place() *event.Place {
	if !f.At.Known {
		return nil
	}
	at := &event.Place{Position: f.At.Position, Version: f.At.Version}
	if f.At.Id != "" {
		at.ID, at.By = json.RawMessage(f.At.Id), f.Follow.ID
	}
	return at
}

// inherit takes over where a walk with another configuration is.
func (f *Follower) inherit(old *Follower) {
	f.At, f.out, f.asked, f.reached = old.At, old.out, old.asked, old.reached
	if f.Follow.ID != old.Follow.ID {
		f.At.Id = ""
	}
}

// learn brings the walk to the last event that the stream holds. What memory
// has above it, because the stream was made anew, stays.
func (f *Follower) learn(e *event.Event) {
	if e == nil || e.Position == nil {
		return
	}
	// One of ours, whose acknowledgement was lost?
	if i := slices.IndexFunc(f.queue, func(s *record.Step) bool {
		return s.Event.Version == e.Version && *s.Event.Position == *e.Position && s.Event.Reorganised == e.Reorganised
	}); i >= 0 {
		f.advance(i + 1)
		return
	}
	if !f.At.Known || e.Version > f.At.Version {
		f.At, f.queue = f.CursorOf(context.Background(), e), nil
	}
}

// advance moves over n steps of the queue, which are stored.
func (f *Follower) advance(n int) {
	if n == 0 {
		return
	}
	last := f.queue[n-1]
	f.At = walk.Cursor{Known: true, Position: *last.Event.Position, Id: last.Id, Version: last.Event.Version}
	f.queue = f.queue[n:]
}

// walkFrom is what the next tick may walk.
func (p *Poll) walkFrom(now time.Time) walk.From {
	f := p.Follow
	from := walk.From{At: f.At}
	switch f.starved = !p.Stored.Synced; {
	case len(f.queue) > 0:
		from.Why = "what was found before is not stored yet"
	case p.Stored.Synced:
		from.Room = f.Follow.MaxPerTick
	}
	if !f.lowSince.IsZero() {
		from.Low = now.Sub(f.lowSince)
	}
	return from
}

// takeWalk keeps what a tick has found, also one that failed at a later
// position.
func (p *Poll) takeWalk(r ask.Reading, w walk.Walked, now time.Time) {
	f := p.Follow
	if w.From != f.At { // the stream turned out to hold something else
		return
	}
	f.out, f.headAt, f.asked = w, time.Time{}, f.asked || r.Failure == nil
	f.queue = append(f.queue, w.Steps...)
	f.out.Steps = nil
	if r.Failure != nil {
		return
	}
	switch {
	case !w.Low:
		f.lowSince = time.Time{}
	case f.lowSince.IsZero():
		f.lowSince = now
	}
	if w.Whole {
		f.headAt = r.Sent
	}
	for _, s := range w.Steps {
		if s.Event.Reorganised {
			p.Log.Warn("positions taken back: the sequence was reorganised or has shrunk", "to", *s.Event.Position, "head", r.Head)
		}
	}
}

// reflectWalk says what is so after a tick without a failure, and when what it
// found is stored: the value is fresh when the head was reached, and for maxAge
// after that, while the walk catches up.
func (p *Poll) reflectWalk(now time.Time) {
	f := p.Follow
	if len(f.queue) == 0 && !f.headAt.IsZero() {
		p.Good.AsOf, f.reached, f.headAt = f.headAt, f.headAt, time.Time{}
	}
	if breaker, _, _ := p.Upstreams.State(); breaker != event.Closed || p.failures > 0 {
		return
	}
	switch behind := now.Sub(f.reached) > p.Config.MaxAge; {
	case f.still:
		p.markStale(event.NotAdvancing, p.standsStill(), now)
	case !behind:
		p.markFresh(now)
	case !f.headAt.IsZero(): // as soon as it is stored
	case f.out.Why != "":
		p.markStale(event.NotAdvancing, "behind the head: "+f.out.Why, now)
	}
}

// settleWalk learns how publishing went.
func (p *Poll) settleWalk(d PutDone, now time.Time) {
	f := p.Follow
	n := 0
	for n < len(f.queue) && f.queue[n].Done {
		n++
	}
	if n > 0 {
		p.Good.ChangedAt, p.Good.AsOf = f.queue[n-1].Event.ChangedAt, f.queue[n-1].Sent
	}
	f.advance(n)
	if found := p.Stored.Recovered; found != nil {
		f.learn(found.Event)
		p.Good.AsOf = clock.Later(p.Good.AsOf, clock.Anchor(found.AsOf(), now))
		p.Stored.Recovered = nil
	}
	if p.Stored.Synced && f.starved {
		f.starved, p.extraAt = false, now
	}
	if len(f.queue) == 0 && !f.headAt.IsZero() {
		p.reflectWalk(now)
	}
}

// nextWalk adds the walk's part to a job: first the fence with a look at the
// stream, then the steps, then, when they are stored, the freshness they make.
func (p *Poll) nextWalk(j *record.Job, now time.Time) {
	f := p.Follow
	j.Place = f.place()
	switch {
	case !p.Stored.Synced:
		if j.Fresh == nil {
			fresh := p.record(now)
			j.Fresh, j.Circuits = &fresh, p.Upstreams.Memos()
		}
		j.Fence = j.Fresh
	case len(f.queue) > 0:
		j.Steps, j.Fresh = f.queue, nil
		for _, s := range j.Steps {
			s.Event.AsOf = clock.WallTime(s.Sent, now)
			s.Event.ChangedAt = s.Event.AsOf
		}
	}
}

// tell adds to a status where the walk is.
func (f *Follower) addStatus(s *Status) {
	if f.At.Known {
		s.Position = new(f.At.Position)
	}
	if f.asked {
		s.Head = new(f.out.Head)
	}
	s.Unpublished = s.Unpublished || len(f.queue) > 0
}
