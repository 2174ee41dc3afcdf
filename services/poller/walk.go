package poller

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
	"github.com/pollcast/pollcast/services/poller/source"
)

// The part of a tick that follows a sequence: when the head is known, the
// positions since the last stored one are asked for, each once, in order. What
// is found goes to follow.go, which publishes it.

// cursor is a place in a sequence: the last position that is published, or
// about to be.
type cursor struct {
	known    bool
	position int64
	id       string // JSON of what follow.id gives; empty: unknown
	version  uint64 // of the topic, there
}

// step is one event of a walk: a position, or that positions are taken back.
type step struct {
	event *event.Event // without times, version and fence until it is put
	sent  time.Time    // when the head was asked for, before it
	id    string
	done  bool // stored
}

// walkFrom is where a tick's walk begins, and how far it may go.
type walkFrom struct {
	at   cursor
	room int
	why  string        // there is none
	low  time.Duration // for how long the head has been below the position
}

// walked is what became of it.
type walked struct {
	from  cursor
	steps []*step
	head  int64
	// whole says that there is nothing between the last step and the head; why
	// says otherwise what is missing.
	whole bool
	why   string
	low   bool // the head is below the position, and nothing says that it is right
}

// walking is one tick's walk.
type walking struct {
	walker
	forgive bool            // a failure during a standstill of the process is none
	hard    context.Context // of the tenure
	ctx     context.Context // of the tick's time
	cancel  context.CancelFunc
	up      *upstream
	slot    time.Time
	sent    time.Time // the call for the head: all that a tick finds is as of then
	from    walkFrom
	at      cursor
	begin   time.Time
	size    int // of what was found
	out     walked
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
func (w walker) walk(ctx context.Context, r *reading, from walkFrom, t tickInfo, begin time.Time) walked {
	now := &walking{
		walker: w, hard: ctx, up: r.up, forgive: t.forgive, slot: r.slot, sent: r.sent, from: from, at: from.at,
		begin: begin, out: walked{from: from.at, head: r.head},
	}
	now.ctx, now.cancel = context.WithDeadline(ctx, begin.Add(w.config.Timeout))
	defer func() { now.cancel() }()
	h := now.run()
	r.took = time.Since(begin)
	if r.abandoned = h.abandoned || ctx.Err() != nil; !r.abandoned && h.failure != nil {
		r.failure = h.failure
		r.blame(h.failure)
	}
	r.starved = h.starved
	return now.out
}

// walker is what the walks of one poll have in common.
type walker struct {
	*asker
	*sequence
	// stream reads back what was published: the events of the topic among the last
	// messages of the stream, oldest first; 0 is all messages.
	stream func(ctx context.Context, topic string, messages uint64, each func(*event.Event)) error
}

// mayAsk says that there is time for another call: it begins in the first half
// of the tick's time, so that it has at least as long as that.
func (w *walking) mayAsk() bool { return time.Since(w.begin) < w.config.Timeout/2 }

func (w *walking) run() halt {
	if w.from.room == 0 {
		w.out.why = w.from.why
		return halt{}
	}
	head := w.out.head
	if w.at.known && head < w.at.position {
		if h, turned := w.below(); !turned {
			return h
		}
	}
	for {
		next := head
		switch {
		case w.at.known:
			next = w.at.position + 1
		case w.first >= 0:
			next = w.first
		}
		if next > head {
			w.out.whole = true
			return halt{}
		}
		w.out.why = fmt.Sprintf("position %d of %d is next", next, head)
		n := min(int64(w.from.room-len(w.out.steps)), head-next+1, maxAtOnce)
		if n <= 0 || w.size > maxWalk || !w.mayAsk() {
			return halt{}
		}
		if !w.source.Batch {
			n = 1
		}
		for _, a := range w.ask(next, int(n)) {
			switch {
			case a.halt != halt{}:
				if a.held {
					w.out.why += ", maxCallsPerMinute is reached"
				}
				return a.halt
			case a.value == nil:
				w.out.why = fmt.Sprintf("position %d is not there yet, the head is %d", a.position, head)
				return halt{}
			case w.parent != nil && w.at.known && w.at.id != "" && a.parent != w.at.id:
				w.out.why = fmt.Sprintf("position %d does not follow the one before", a.position)
				if len(w.out.steps) > 0 {
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
	e.Topic, e.Poll, e.Upstream = w.topic, w.topic, w.up.name
	w.out.steps = append(w.out.steps, &step{event: e, sent: w.sent, id: id})
	w.at = cursor{known: true, position: *e.Position, id: id}
	w.size += len(e.Data)
}

// below is for a head below the position. It is believed at once if it has
// another id than was published, never if it has the same, and otherwise when
// it has stayed there for maxAge: one of several upstreams may just be behind.
func (w *walking) below() (h halt, turned bool) {
	head := w.out.head
	w.out.why = fmt.Sprintf("the head is %d, and position %d is published", head, w.at.position)
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
	if w.out.low = true; w.from.low <= w.config.MaxAge {
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
			if position <= w.at.position {
				known = append(known, position)
			}
		}
		slices.Sort(known)
		// Below the place where they part all are the same, above it none is.
		parted := sort.Search(len(known), func(i int) bool {
			if h != (halt{}) || known[i] > w.out.head {
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
			w.takeBack(w.at.position-1, "")
			return halt{}, true
		case parted == 0: // deeper than the stream's history
			w.takeBack(known[0]-1, "")
			return halt{}, true
		case known[parted-1] == w.at.position:
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
	w.begin = clock()
	w.ctx, w.cancel = context.WithTimeout(w.hard, w.config.Timeout)
}

// takeBack makes it a step that what comes after to does not hold.
func (w *walking) takeBack(to int64, id string) {
	var v event.Reorganisation
	v.Reorganised.From, v.Reorganised.To, v.Reorganised.ID = w.at.position, to, json.RawMessage(id)
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
	ctx, cancel := context.WithTimeout(w.hard, publishTimeout)
	defer cancel()
	ids := map[int64]string{}
	err := w.stream(ctx, w.topic, messages, func(e *event.Event) {
		c := w.cursorOf(ctx, e)
		if !c.known {
			clear(ids)
			return
		}
		if e.Reorganised {
			maps.DeleteFunc(ids, func(position int64, _ string) bool { return position > c.position })
		}
		if delete(ids, c.position); c.id != "" {
			ids[c.position] = c.id
		}
	})
	if w.from.at.id != "" && err == nil {
		ids[w.from.at.position] = w.from.at.id
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
	a, now := found{position: position}, clock()
	if !w.up.quota.take(now) {
		w.up.withheld.Inc()
		a.held = true
		return a
	}
	var call source.Call
	if call, a.failure = w.asker.ask(w.ctx, w.position, moment{now: now, slot: w.slot, position: position}, w.up); a.failure != nil {
		return a
	}
	w.up.calls[positionCall].Inc()
	got := w.attempt(w.ctx, w.up, call, w.forgive)
	if a.failure, a.abandoned, a.starved = got.failure, got.abandoned, got.starved; a.failure != nil || a.abandoned {
		return a
	}
	defer func() {
		if v := recover(); v != nil {
			w.panics(v)
			a.failure = w.up.blame(event.BadResponse, "", errors.New(panicText(v)))
		}
	}()
	if err := w.shapePosition(&a, got.value); err != nil {
		a.failure = w.up.blame(event.BadResponse, "", err)
	}
	return a
}

// shape makes the value of an answer, and its ids.
func (w *walking) shapePosition(a *found, raw json.RawMessage) error {
	if isNull(raw) {
		return nil
	}
	if !w.shape.idle() {
		s, err := w.shape.apply(w.ctx, raw)
		if err != nil {
			return err
		}
		if raw = s.value; isNull(raw) {
			return nil
		}
	}
	value, _, err := w.finish(raw, earlier{})
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
