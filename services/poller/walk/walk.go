package walk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/ask"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/record"
	"github.com/pollcast/pollcast/services/poller/source"
)

// The part of a tick that follows a sequence: when the head is known, the
// positions since the last stored one are asked for, each once, in order. What
// is found goes to follow.go, which publishes it.

// cursor is a place in a sequence: the last position that is published, or
// about to be.
type Cursor struct {
	Known    bool
	Position int64
	Id       string // JSON of what follow.id gives; empty: unknown
	Version  uint64 // of the topic, there
}

// walkFrom is where a tick's walk begins, and how far it may go.
type From struct {
	At   Cursor
	Room int
	Why  string        // there is none
	Low  time.Duration // for how long the head has been below the position
}

// walked is what became of it.
type Walked struct {
	From  Cursor
	Steps []*record.Step
	Head  int64
	// whole says that there is nothing between the last step and the head; why
	// says otherwise what is missing.
	Whole bool
	Why   string
	Low   bool // the head is below the position, and nothing says that it is right
}

// walking is one tick's walk.
type walking struct {
	Walker
	forgive bool            // a failure during a standstill of the process is none
	hard    context.Context // of the tenure
	ctx     context.Context // of the tick's time
	cancel  context.CancelFunc
	up      *ask.Upstream
	slot    time.Time
	sent    time.Time // the call for the head: all that a tick finds is as of then
	from    From
	at      Cursor
	begin   time.Time
	size    int // of what was found
	out     Walked
}

const (
	// maxAtOnce bounds the positions that are asked for together, in a batch or,
	// of an upstream that takes none, side by side.
	maxAtOnce = 50
	// maxWalk is the size at which a tick's walk ends, in bytes.
	maxWalk = 16 << 20
)

// halt ends a walk for this tick: with a failure, because the poller stops, or
// because the upstream may not be asked more often.
type halt struct {
	failure   *source.Failure
	abandoned bool
	starved   bool // abandoned, because the process stood still meanwhile
	held      bool
}

// walk asks for the positions up to the head that the reading brought. A
// position that fails makes the reading fail; those before it are kept.
func (w Walker) Walk(ctx context.Context, r *ask.Reading, from From, t ask.Tick, begin time.Time) Walked {
	now := &walking{
		Walker: w, hard: ctx, up: r.Up, forgive: t.Forgive, slot: r.Slot, sent: r.Sent, from: from, at: from.At,
		begin: begin, out: Walked{From: from.At, Head: r.Head},
	}
	now.ctx, now.cancel = context.WithDeadline(ctx, begin.Add(w.Config.Timeout))
	defer func() { now.cancel() }()
	h := now.run()
	r.Took = time.Since(begin)
	if r.Abandoned = h.abandoned || ctx.Err() != nil; !r.Abandoned && h.failure != nil {
		r.Failure = h.failure
		r.Blame(h.failure)
	}
	r.Starved = h.starved
	return now.out
}

// walker is what the walks of one poll have in common.
type Walker struct {
	*ask.Asker
	*Sequence
	// stream reads back what was published: the events of the topic among the last
	// messages of the stream, oldest first; 0 is all messages.
	Stream func(ctx context.Context, topic string, messages uint64, each func(*event.Event)) error
}

// mayAsk says that there is time for another call: it begins in the first half
// of the tick's time, so that it has at least as long as that.
func (w *walking) mayAsk() bool { return time.Since(w.begin) < w.Config.Timeout/2 }

func (w *walking) run() halt {
	if w.from.Room == 0 {
		w.out.Why = w.from.Why
		return halt{}
	}
	head := w.out.Head
	if w.at.Known && head < w.at.Position {
		if h, turned := w.below(); !turned {
			return h
		}
	}
	for {
		next := head
		switch {
		case w.at.Known:
			next = w.at.Position + 1
		case w.first >= 0:
			next = w.first
		}
		if next > head {
			w.out.Whole = true
			return halt{}
		}
		w.out.Why = fmt.Sprintf("position %d of %d is next", next, head)
		n := min(int64(w.from.Room-len(w.out.Steps)), head-next+1, maxAtOnce)
		if n <= 0 || w.size > maxWalk || !w.mayAsk() {
			return halt{}
		}
		if !w.Source.Batch {
			n = 1
		}
		for _, a := range w.ask(next, int(n)) {
			switch {
			case a.halt != halt{}:
				if a.held {
					w.out.Why += ", maxCallsPerMinute is reached"
				}
				return a.halt
			case a.value == nil:
				w.out.Why = fmt.Sprintf("position %d is not there yet, the head is %d", a.position, head)
				return halt{}
			case w.parent != nil && w.at.Known && w.at.Id != "" && a.parent != w.at.Id:
				w.out.Why = fmt.Sprintf("position %d does not follow the one before", a.position)
				if len(w.out.Steps) > 0 {
					return halt{} // once these are stored, the stream knows them
				}
				if h, turned := w.turnBack(); !turned {
					return h
				}
			default:
				w.add(&event.Event{Data: a.value, Position: &a.position}, a.id)
				continue
			}
			break // turned back: what else was asked for is not next any more
		}
	}
}

// add makes an event the next step.
func (w *walking) add(e *event.Event, id string) {
	e.Topic, e.Poll, e.Upstream = w.Topic, w.Topic, w.up.Name
	w.out.Steps = append(w.out.Steps, &record.Step{Event: e, Sent: w.sent, Id: id})
	w.at = Cursor{Known: true, Position: *e.Position, Id: id}
	w.size += len(e.Data)
}

// below is for a head below the position. It is believed at once if it has
// another id than was published, never if it has the same, and otherwise when
// it has stayed there for maxAge: one of several upstreams may just be behind.
func (w *walking) below() (h halt, turned bool) {
	head := w.out.Head
	w.out.Why = fmt.Sprintf("the head is %d, and position %d is published", head, w.at.Position)
	if w.id != nil {
		past, err := w.past(lately)
		if err != nil {
			return halt{}, false
		}
		if id, ok := past[head]; ok {
			a := w.ask(head, 1)[0]
			switch {
			case a.halt != halt{}:
				return a.halt, false
			case a.value == nil, a.id == id:
				return halt{}, false
			}
			return w.turnBack()
		}
	}
	if w.out.Low = true; w.from.Low <= w.Config.MaxAge {
		return halt{}, false
	}
	w.takeBack(head, "")
	return halt{}, true
}

// turnBack finds the newest published position that the upstream still has,
// and takes back those after it: first among the latest, then among all that
// the stream holds. It takes the time that it needs: a tick that could not
// finish it would begin anew, for ever.
func (w *walking) turnBack() (h halt, turned bool) {
	for _, messages := range []uint64{lately, 0} {
		past, err := w.past(messages)
		if err != nil {
			return halt{}, false // the next tick tries again
		}
		var known []int64
		for position := range past {
			if position <= w.at.Position {
				known = append(known, position)
			}
		}
		slices.Sort(known)
		// Below the place where they part all are the same, above it none is.
		parted := sort.Search(len(known), func(i int) bool {
			if h != (halt{}) || known[i] > w.out.Head {
				return true
			}
			w.renew()
			a := w.ask(known[i], 1)[0]
			h = a.halt
			return a.value == nil || a.id != past[known[i]]
		})
		switch {
		case h != (halt{}):
			return h, false
		case parted == 0 && messages > 0: // deeper
		case len(known) == 0:
			w.takeBack(w.at.Position-1, "")
			return halt{}, true
		case parted == 0: // deeper than the stream's history
			w.takeBack(known[0]-1, "")
			return halt{}, true
		case known[parted-1] == w.at.Position:
			return halt{}, false // it was between two answers, or the next tick asks another upstream
		default:
			w.takeBack(known[parted-1], past[known[parted-1]])
			return halt{}, true
		}
	}
	return halt{}, false
}

// lately is how many messages of the stream, of whatever topic, are looked
// through first.
const lately = 4096

// renew gives the walk the time of another tick.
func (w *walking) renew() {
	w.cancel()
	w.begin = clock.Now()
	w.ctx, w.cancel = context.WithTimeout(w.hard, w.Config.Timeout)
}

// takeBack makes it a step that what comes after to does not hold.
func (w *walking) takeBack(to int64, id string) {
	var v event.Reorganisation
	v.Reorganised.From, v.Reorganised.To, v.Reorganised.ID = w.at.Position, to, json.RawMessage(id)
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // numbers, and an id that was JSON
	}
	w.add(&event.Event{Data: data, Position: &to, Reorganised: true}, id)
}

// past is the ids of the positions that the last messages of the stream hold
// and that were not taken back; 0 is all messages.
func (w *walking) past(messages uint64) (map[int64]string, error) {
	defer w.renew()
	ctx, cancel := context.WithTimeout(w.hard, record.PublishTimeout)
	defer cancel()
	ids := map[int64]string{}
	err := w.Stream(ctx, w.Topic, messages, func(e *event.Event) {
		c := w.CursorOf(ctx, e)
		if !c.Known {
			clear(ids)
			return
		}
		if e.Reorganised {
			maps.DeleteFunc(ids, func(position int64, _ string) bool { return position > c.Position })
		}
		if delete(ids, c.Position); c.Id != "" {
			ids[c.Position] = c.Id
		}
	})
	if w.from.At.Id != "" && err == nil {
		ids[w.from.At.Position] = w.from.At.Id
	}
	return ids, err
}

// found is the answer to one position's call.
type found struct {
	position int64
	value    json.RawMessage // nil: not there yet
	id       string
	parent   string
	halt     // no value
}

// ask asks for n positions from the first on; several at once, so that they
// make one batch.
func (w *walking) ask(first int64, n int) []found {
	all := make([]found, n)
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() { all[i] = w.one(first + int64(i)) })
	}
	wg.Wait()
	counts := slices.ContainsFunc(all, func(a found) bool { return a.failure != nil && a.failure.Counts && !a.failure.Again })
	for i := range all {
		if f := all[i].failure; f != nil {
			if counts || !f.Counts {
				f.Again = false // whichever is told, the request has failed once
			}
			f.Word(func(s string) string { return event.Detail(fmt.Sprintf("position %d: %s", all[i].position, s)) })
		}
	}
	return all
}

func (w *walking) one(position int64) found {
	a, now := found{position: position}, clock.Now()
	if !w.up.Quota.Take(now) {
		w.up.Withheld.Inc()
		a.held = true
		return a
	}
	var call source.Call
	if call, a.failure = w.Asker.Compose(w.ctx, w.position, jq.Moment{Now: now, Slot: w.slot, Position: position}, w.up); a.failure != nil {
		return a
	}
	w.up.Calls[ask.PositionCall].Inc()
	got := w.Attempt(w.ctx, w.up, call, w.forgive)
	if a.failure, a.abandoned, a.starved = got.Failure, got.Abandoned, got.Starved; a.failure != nil || a.abandoned {
		return a
	}
	defer func() {
		if v := recover(); v != nil {
			w.Panics(v)
			a.failure = w.up.Blame(event.BadResponse, "", errors.New(ask.PanicText(v)))
		}
	}()
	if err := w.shapePosition(&a, got.Value); err != nil {
		a.failure = w.up.Blame(event.BadResponse, "", err)
	}
	return a
}

// shape makes the value of an answer, and its ids.
func (w *walking) shapePosition(a *found, raw json.RawMessage) error {
	if isNull(raw) {
		return nil
	}
	if !w.Shape.PassesThrough() {
		s, err := w.Shape.Apply(w.ctx, raw)
		if err != nil {
			return err
		}
		if raw = s.Value; isNull(raw) {
			return nil
		}
	}
	value, _, err := w.Finish(raw, ask.Earlier{})
	if err != nil {
		return err
	}
	if w.id != nil {
		if a.id, err = w.idOf(w.ctx, w.id, value); err != nil {
			return err
		}
		if a.parent, err = w.idOf(w.ctx, w.parent, value); err != nil {
			return err
		}
	}
	a.value = value
	return nil
}

func isNull(raw json.RawMessage) bool { return strings.TrimSpace(string(raw)) == "null" }

const maxID = 1 << 10
