package poll

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/ask"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/record"
	"github.com/pollcast/pollcast/services/poller/walk"
)

// following is the kind that publishes every position of a sequence once, in order.
//
// Only the stream knows where it is: in the position of the topic's last event or, when
// a full stream has dropped that, in the freshness record. So a tick asks for nothing
// more while something is not stored. A new lease holder first makes the stream refuse
// the old one, then reads the stream, and only then walks on. What was read and not
// stored is read again.
type following struct {
	*walk.Sequence
	s *state

	copy  record.Copy    // of the topic
	at    walk.Cursor    // stored
	queue []*record.Step // to be stored next, in this order
	// waiting: a tick could not walk before the stream was read.
	waiting   bool
	out       walk.Walked // the last walk
	walked    bool        // there was one
	progress  jq.Progress // of the head
	still     bool        // the head has not advanced
	changedAt time.Time   // of the last step that is stored
	// headAt is when the head was asked for that the last walk reached; zero: it did not.
	headAt   time.Time
	reached  time.Time // the last such time of which all is stored
	lowSince time.Time // when the head was first below the position; zero: it is not
}

func (f *following) before() ask.Before { return ask.Before{} }

func (f *following) plan(now time.Time) fetch {
	from := walk.From{At: f.at}
	synced := f.s.outbox.state.Sync == record.Synced
	switch f.waiting = !synced; {
	case len(f.queue) > 0:
		from.Why = "what was found before is not stored yet"
	case synced:
		from.Room = f.Follow.MaxPerTick
	}
	if !f.lowSince.IsZero() {
		from.HeadBelow = now.Sub(f.lowSince)
	}
	return func(ctx context.Context, r *ask.Reading, t ask.Tick, begin time.Time) *walk.Walked {
		w := walk.Walker{Asker: f.s.Asker, Sequence: f.Sequence, Stream: f.s.host.Stream().ReadBack}
		return new(w.Walk(ctx, r, from, t, begin))
	}
}

func (f *following) standsStill(r ask.Reading, _ time.Time) bool {
	within := f.s.Config.MustAdvance.Within
	f.still = within > 0 && f.progress.Observe(int(r.Head), r.Sent, within)
	return f.still
}

func (f *following) keep(r ask.Reading, w *walk.Walked, now time.Time) {
	if r.Failure != nil {
		f.still = false
	}
	if w == nil {
		w = new(walk.Walked)
	}
	if w.From != f.at { // the stream turned out to hold something else
		return
	}
	f.out, f.headAt, f.walked = *w, time.Time{}, f.walked || r.Failure == nil
	f.queue = append(f.queue, w.Steps...)
	f.out.Steps = nil
	if r.Failure != nil {
		return
	}
	switch {
	case !w.HeadBelow:
		f.lowSince = time.Time{}
	case f.lowSince.IsZero():
		f.lowSince = now
	}
	if w.AtHead {
		f.headAt = r.Sent
	}
	for _, s := range w.Steps {
		if s.Event.Reorganised {
			f.s.Log.Warn("positions taken back: the sequence was reorganised or has shrunk",
				"to", *s.Event.Position, "head", r.Head)
		}
	}
}

func (f *following) take(r ask.Reading) {
	f.s.topics.retain(r, func(string) bool { return false })
}

// verdict is what is so after a tick without a failure, and when what it found is
// stored: the value is fresh when the head was reached, and for maxAge after that,
// while the walk catches up.
func (f *following) verdict(now time.Time) (verdict, bool) {
	if len(f.queue) == 0 && !f.headAt.IsZero() {
		f.s.trust.asOf, f.reached, f.headAt = f.headAt, f.headAt, time.Time{}
	}
	if state, _, _ := f.s.Upstreams.State(); state != event.Closed || f.s.trust.failures > 0 {
		return verdict{}, false
	}
	switch behind := now.Sub(f.reached) > f.s.Config.MaxAge; {
	case f.still:
		return f.s.notAdvancing(), true
	case !behind:
		return fresh, true
	case f.headAt.IsZero() && f.out.Why != "":
		return stale(event.NotAdvancing, "behind the head: "+f.out.Why), true
	}
	return verdict{}, false // it will be fresh as soon as all is stored
}

// add adds first the fence, then the steps, then, when they are stored, the freshness
// that follows from them.
func (f *following) add(j *record.Job, now time.Time) {
	j.Changes, j.Place, j.Version = f.s.topics.changes(now), f.place(), f.copy.Version
	switch {
	case j.Known.Sync != record.Synced:
		if j.Fresh == nil {
			j.Fresh, j.Circuits = new(f.s.freshness(now)), f.s.Upstreams.Memos()
		}
		j.Fence, j.Keys = j.Fresh, len(f.s.topics.byToken) > 0
	case len(f.queue) > 0:
		j.Steps, j.Fresh = f.queue, nil
		for _, s := range j.Steps {
			s.Event.AsOf = clock.WallTime(s.Sent, now)
			s.Event.ChangedAt = s.Event.AsOf
		}
	}
}

func (f *following) settle(r *record.Recovered, now time.Time) {
	n := 0
	for n < len(f.queue) && f.queue[n].Stored {
		n++
	}
	if n > 0 {
		f.changedAt, f.s.trust.asOf = f.queue[n-1].Event.ChangedAt, f.queue[n-1].Sent
	}
	f.advance(n)
	if r != nil {
		f.learn(*r)
		f.s.trust.recover(r.Own().AsOf(), now)
		f.learnKeys(*r, r.Keys == nil, now)
	}
	if f.s.outbox.state.Sync == record.Synced && f.waiting {
		f.waiting, f.s.ticks.extraAt = false, now
	}
	if len(f.queue) == 0 && !f.headAt.IsZero() {
		if v, ok := f.verdict(now); ok {
			f.s.judge(v, now)
		}
	}
}

func (f *following) resume(r record.Recovered, now time.Time) {
	if r.Fresh != nil && !r.Fresh.Stale {
		f.reached = clock.Later(f.reached, clock.Anchor(r.Fresh.AsOf, now))
	}
	f.queue, f.waiting, f.headAt, f.lowSince = nil, false, time.Time{}, time.Time{}
	f.out = walk.Walked{}
	f.learn(r)
	if at := r.Place; at != nil {
		f.copy.Version = max(f.copy.Version, at.Version)
		if !f.at.Known || at.Version > f.at.Version {
			f.at = walk.Cursor{Known: true, Position: at.Position, Version: at.Version}
			if at.By == f.Follow.ID {
				f.at.ID = string(at.ID)
			}
		}
	}
	f.learnKeys(r, false, now)
	t := &f.s.trust
	t.recover(r.Own().AsOf(), now)
	if r.Fresh != nil {
		t.recover(r.Fresh.AsOf, now)
	} else if !t.known && t.asOf.IsZero() {
		t.set(stale(event.PollerSilent, ""), now) // for the record that fences
	}
}

// learnKeys learns what an earlier configuration has left of keys.
func (f *following) learnKeys(r record.Recovered, ownOnly bool, now time.Time) {
	r.Event = nil
	f.s.topics.learn(r, ownOnly, time.Time{}, now)
}

// learn brings the walk to the last event that the stream holds. What memory has above
// it, because the stream was made anew, stays.
func (f *following) learn(r record.Recovered) {
	f.copy.Learn(r.Own(), nil)
	e := r.Event
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
	if !f.at.Known || e.Version > f.at.Version {
		f.at, f.queue = f.CursorOf(context.Background(), e), nil
	}
}

// advance moves over n steps of the queue, which are stored.
func (f *following) advance(n int) {
	if n == 0 {
		return
	}
	last := f.queue[n-1]
	f.at = walk.Cursor{Known: true, Position: *last.Event.Position, ID: last.ID, Version: last.Event.Version}
	f.copy.Version = max(f.copy.Version, last.Event.Version)
	f.queue = f.queue[n:]
}

// place is where the walk is, for the next holder; nil while nothing is stored.
func (f *following) place() *event.Place {
	if !f.at.Known {
		return nil
	}
	at := &event.Place{Position: f.at.Position, Version: f.at.Version}
	if f.at.ID != "" {
		at.ID, at.By = json.RawMessage(f.at.ID), f.Follow.ID
	}
	return at
}

func (f *following) inherit(old kind) bool {
	o, ok := old.(*following)
	if !ok {
		return false
	}
	f.copy, f.at, f.out, f.walked, f.reached, f.changedAt = o.copy, o.at, o.out, o.walked, o.reached, o.changedAt
	if f.Follow.ID != o.Follow.ID {
		f.at.ID = ""
	}
	if f.s.Config.MustAdvance == o.s.Config.MustAdvance && f.s.Config.Select == o.s.Config.Select {
		f.progress = o.progress
	}
	return true
}

func (f *following) addTo(s *Status) {
	s.ChangedAt, s.Version = f.changedAt, f.copy.Version
	if f.at.Known {
		s.Position = new(f.at.Position)
	}
	if f.walked {
		s.Head = new(f.out.Head)
	}
	s.Unpublished = s.Unpublished || len(f.queue) > 0
}

func (f *following) restored() int {
	if f.at.Known {
		return 1 + f.s.topics.live()
	}
	return f.s.topics.live()
}
