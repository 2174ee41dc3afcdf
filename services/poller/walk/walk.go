package walk

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sort"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/ask"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/record"
	"github.com/pollcast/pollcast/services/poller/source"
)

// Cursor is a place in a sequence: the last position that is published, or is about to
// be. The zero value is before the first position.
type Cursor struct {
	Known    bool // false: nothing is published
	Position int64
	ID       string // JSON of what follow.id gives for the position; empty: unknown
	Version  uint64 // of the topic at this position
}

// From is where a tick's walk begins, and how far it may go.
type From struct {
	At        Cursor
	Room      int           // number of steps; 0: only the head is read
	Why       string        // why Room is 0, if a reader should know
	HeadBelow time.Duration // for how long the head has been below At
}

// Walked is the result of a tick's walk.
type Walked struct {
	From   Cursor
	Steps  []*record.Step // to publish, in this order
	Head   int64
	AtHead bool   // there is nothing between the last step and the head
	Why    string // why it is not AtHead
	// HeadBelow means that the head is below the position, and that this may be wrong:
	// one of several upstreams may be behind.
	HeadBelow bool
}

// Walker is what the walks of one poll have in common.
type Walker struct {
	*ask.Asker
	*Sequence
	// Stream reads published events of a topic back, oldest first, from the last messages
	// of the stream, whatever their topic; 0 means all messages.
	Stream func(ctx context.Context, topic string, messages uint64, each func(*event.Event)) error
}

const (
	// maxAtOnce bounds the positions that are asked for at once, in a batch.
	maxAtOnce = 50
	// maxWalkSize is the size of the values, in bytes, at which a tick's walk ends.
	maxWalkSize = 16 << 20
	// recentMessages is how many messages of the stream turnBack reads first.
	recentMessages = 4096
)

// walking is the walk of one tick. It belongs to one goroutine.
type walking struct {
	Walker
	forgive bool            // a failure during a standstill of the process is none
	tenure  context.Context // ends with the tenure
	ctx     context.Context // ends with the tick's time too
	cancel  context.CancelFunc
	up      *ask.Upstream // the one that gave the head
	slot    time.Time     // of the tick
	sent    time.Time     // when the head was asked for: all steps are as of then
	from    From
	at      Cursor    // the last step, or where the walk began
	begin   time.Time // of the tick's time
	size    int       // of the steps' values, in bytes
	out     Walked
}

// halt is why a walk ends before the head: a failure, the end of the poller, or a quota
// that is used up. The zero value means that the walk goes on, or that the next tick
// does.
type halt struct {
	failure   *source.Failure
	abandoned bool
	starved   bool // abandoned because the process stood still meanwhile
	withheld  bool // by the upstream's quota
}

// Walk asks for the positions up to the head that a reading brought. If a position
// fails, the reading fails; the steps before it are kept. begin is when the tick began.
func (w Walker) Walk(ctx context.Context, r *ask.Reading, from From, t ask.Tick, begin time.Time) Walked {
	now := &walking{
		Walker: w, tenure: ctx, up: r.Up, forgive: t.Forgive, slot: r.Slot, sent: r.Sent, from: from, at: from.At,
		begin: begin, out: Walked{From: from.At, Head: r.Head},
	}
	now.ctx, now.cancel = context.WithDeadline(ctx, begin.Add(w.Config.Timeout))
	defer func() { now.cancel() }() // not the cancel of now: renew changes it
	h := now.run()
	r.Took = time.Since(begin)
	if r.Abandoned = h.abandoned || ctx.Err() != nil; !r.Abandoned && h.failure != nil {
		r.Failure = h.failure
		r.Blame(h.failure)
	}
	r.Starved = h.starved
	return now.out
}

// mayAsk reports whether there is time for another call. A call begins in the first
// half of the tick's time, so that it has the second half at least.
func (w *walking) mayAsk() bool { return time.Since(w.begin) < w.Config.Timeout/2 }

// run walks up to the head, or until it must stop.
func (w *walking) run() halt {
	if w.from.Room == 0 {
		w.out.Why = w.from.Why
		return halt{}
	}
	head := w.out.Head
	if w.at.Known && head < w.at.Position {
		if h, turned := w.headBelow(); !turned {
			return h
		}
	}
	for {
		next := w.next()
		if next > head {
			w.out.AtHead = true
			return halt{}
		}
		w.out.Why = fmt.Sprintf("position %d of %d is next", next, head)
		n := min(int64(w.from.Room-len(w.out.Steps)), head-next+1, maxAtOnce)
		if n <= 0 || w.size > maxWalkSize || !w.mayAsk() {
			return halt{}
		}
		if !w.Source.Batch {
			n = 1
		}
		if h, more := w.take(w.ask(next, int(n))); !more {
			return h
		}
	}
}

// next returns the position to ask for.
func (w *walking) next() int64 {
	switch {
	case w.at.Known:
		return w.at.Position + 1
	case w.first >= 0:
		return w.first
	}
	return w.out.Head
}

// take makes steps of positions, up to one that is missing or that does not follow the
// one before. more is false when the walk ends there.
func (w *walking) take(all []found) (h halt, more bool) {
	for _, a := range all {
		switch {
		case a.halt != halt{}:
			if a.withheld {
				w.out.Why += ", maxCallsPerMinute is reached"
			}
			return a.halt, false
		case a.value == nil:
			w.out.Why = fmt.Sprintf("position %d is not there yet, the head is %d", a.position, w.out.Head)
			return halt{}, false
		case w.parent != nil && w.at.Known && w.at.ID != "" && a.parent != w.at.ID:
			w.out.Why = fmt.Sprintf("position %d does not follow the one before", a.position)
			if len(w.out.Steps) > 0 {
				return halt{}, false // once these are stored, turnBack finds them in the stream
			}
			return w.turnBack() // the other positions are not next any more
		}
		w.add(&event.Event{Data: a.value, Position: &a.position}, a.id)
	}
	return halt{}, true
}

// add makes an event the next step.
func (w *walking) add(e *event.Event, id string) {
	e.Topic, e.Poll, e.Upstream = w.Topic, w.Topic, w.up.Name
	w.out.Steps = append(w.out.Steps, &record.Step{Event: e, Sent: w.sent, ID: id})
	w.at = Cursor{Known: true, Position: *e.Position, ID: id}
	w.size += len(e.Data)
}

// headBelow handles a head below the position. If the id at the head differs from the
// one that was published, the sequence was reorganised. If it is the same, this
// upstream is behind. Without ids the head counts when it has stayed there for maxAge.
func (w *walking) headBelow() (h halt, turned bool) {
	head := w.out.Head
	w.out.Why = fmt.Sprintf("the head is %d, and position %d is published", head, w.at.Position)
	if w.id != nil {
		published, err := w.published(recentMessages)
		if err != nil {
			return halt{}, false
		}
		if id, ok := published[head]; ok {
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
	if w.out.HeadBelow = true; w.from.HeadBelow <= w.Config.MaxAge {
		return halt{}, false
	}
	w.takeBack(head, "")
	return halt{}, true
}

// turnBack finds the newest published position that the upstream still has, and takes
// back those after it. It searches the recent messages of the stream first, then all.
// Each call gets the time of a whole tick: a search that a tick could not finish would
// begin again in every tick.
func (w *walking) turnBack() (h halt, turned bool) {
	for _, messages := range []uint64{recentMessages, 0} {
		published, err := w.published(messages)
		if err != nil {
			return halt{}, false // the next tick tries again
		}
		var known []int64
		for position := range published {
			if position <= w.at.Position {
				known = append(known, position)
			}
		}
		slices.Sort(known)
		// All positions below the fork are the same, and none above it is.
		fork := sort.Search(len(known), func(i int) bool {
			if h != (halt{}) || known[i] > w.out.Head {
				return true
			}
			w.renew()
			a := w.ask(known[i], 1)[0]
			h = a.halt
			return a.value == nil || a.id != published[known[i]]
		})
		switch {
		case h != (halt{}):
			return h, false
		case fork == 0 && messages > 0: // older than the recent messages
		case len(known) == 0:
			w.takeBack(w.at.Position-1, "")
			return halt{}, true
		case fork == 0: // older than the stream
			w.takeBack(known[0]-1, "")
			return halt{}, true
		case known[fork-1] == w.at.Position:
			return halt{}, false // the upstream changed between two answers; the next tick sees
		default:
			w.takeBack(known[fork-1], published[known[fork-1]])
			return halt{}, true
		}
	}
	return halt{}, false
}

// renew gives the walk the time of another tick.
func (w *walking) renew() {
	w.cancel()
	w.begin = clock.Now()
	w.ctx, w.cancel = context.WithTimeout(w.tenure, w.Config.Timeout)
}

// takeBack makes a step of the end of all positions after to. id is that of to.
func (w *walking) takeBack(to int64, id string) {
	var v event.Reorganisation
	v.Reorganised.From, v.Reorganised.To, v.Reorganised.ID = w.at.Position, to, json.RawMessage(id)
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // numbers, and an id that was JSON
	}
	w.add(&event.Event{Data: data, Position: &to, Reorganised: true}, id)
}

// published returns the ids of the positions that the last messages of the stream hold,
// without those that were taken back. messages 0 means all. It renews the tick's time.
func (w *walking) published(messages uint64) (map[int64]string, error) {
	defer w.renew()
	ctx, cancel := context.WithTimeout(w.tenure, record.PublishTimeout)
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
		if delete(ids, c.Position); c.ID != "" {
			ids[c.Position] = c.ID
		}
	})
	if w.from.At.ID != "" && err == nil {
		ids[w.from.At.Position] = w.from.At.ID
	}
	return ids, err
}
