package walk

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/bits"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/ask"
	"github.com/pollcast/pollcast/services/poller/breaker"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/prometheus/client_golang/prometheus"
)

// block is a position of the test's sequence.
type block struct {
	ID     string `json:"id"`
	Parent string `json:"parent"`
}

// chain returns blocks up to a head, whose ids differ from fork on by the branch.
func chain(head, fork int, branch string) []block {
	all := make([]block, head+1)
	for i := range all {
		all[i].ID = fmt.Sprint(i)
		if i >= fork {
			all[i].ID += branch
		}
		if i > 0 {
			all[i].Parent = all[i-1].ID
		}
	}
	return all
}

// upstream answers for the blocks of a sequence.
type upstream struct {
	blocks  []block
	takes   time.Duration         // for each call
	failAt  int                   // the call that fails, counted from 1; 0: none
	asked   []int64               // positions, in order
	fails   error                 // that call's error
	publish []event.Event         // what the stream holds of the topic, oldest first
	others  uint64                // messages of other topics after each of them
	read    func(messages uint64) // called when the stream is read
}

func (u *upstream) call(ctx context.Context, c source.Call) (json.RawMessage, error) {
	var position [1]int64
	if err := json.Unmarshal(c.Params, &position); err != nil {
		return nil, err
	}
	u.asked = append(u.asked, position[0])
	time.Sleep(u.takes)
	if ctx.Err() != nil {
		return nil, &source.Failure{Reason: event.Timeout, Detail: "too late", Counts: true}
	}
	if len(u.asked) == u.failAt {
		return nil, u.fails
	}
	if position[0] >= int64(len(u.blocks)) {
		return json.RawMessage("null"), nil
	}
	return json.Marshal(u.blocks[position[0]])
}

// stream reads back the published events among the last messages.
func (u *upstream) stream(_ context.Context, _ string, messages uint64, each func(*event.Event)) error {
	if u.read != nil {
		u.read(messages)
	}
	events := u.publish
	if messages /= 1 + u.others; messages > 0 && uint64(len(events)) > messages {
		events = events[uint64(len(events))-messages:]
	}
	for i := range events {
		each(&events[i])
	}
	return nil
}

// published makes the events of blocks from a position on.
func published(blocks []block, from int) (all []event.Event) {
	for i := from; i < len(blocks); i++ {
		data, _ := json.Marshal(blocks[i])
		position := int64(i)
		all = append(all, event.Event{Data: data, Position: &position, Version: uint64(i + 1)})
	}
	return all
}

// rig is a Walker at an upstream. It is made outside the bubble.
type rig struct {
	Walker
	up *ask.Upstream
}

func newRig(t *testing.T, u *upstream, id, parent string) *rig {
	t.Helper()
	p := config.Poll{
		Interval: 10 * time.Second, Timeout: 4 * time.Second, MaxAge: time.Minute, Method: "block",
		Params: []any{"{{ $position }}"},
		Follow: &config.Follow{Head: config.Head{Method: "head"}, ID: id, Parent: parent},
	}
	s, _, err := NewSequence(p)
	if err != nil {
		t.Fatal(err)
	}
	shape, problems := p.Shape()
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	circuit, err := breaker.New(t.Name(), "u", breaker.Rule{Failures: 3, OpenFor: time.Minute}, func(event.Breaker) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(circuit.Free)
	counter := prometheus.NewCounter(prometheus.CounterOpts{})
	up := &ask.Upstream{
		Name: "u", Circuit: circuit, Quota: new(breaker.Quota), Call: u.call, Withheld: counter,
		Calls: map[ask.CallKind]prometheus.Counter{ask.PositionCall: counter},
	}
	return &rig{up: up, Walker: Walker{
		Asker: &ask.Asker{
			Topic: "s.p", Config: p, Shape: shape, Log: slog.New(slog.DiscardHandler),
			MaxPayload: func(int) int64 { return 0 }, Stood: func() time.Duration { return 0 },
		},
		Sequence: s, Stream: u.stream,
	}}
}

// walk walks from the last published block to a head.
func (r *rig) walk(t *testing.T, at Cursor, low time.Duration, head int64) (Walked, ask.Reading) {
	now := time.Now()
	reading := ask.Reading{Up: r.up, Slot: now, Sent: now}
	reading.Head = head
	w := r.Walk(t.Context(), &reading, From{At: at, Room: 10, HeadBelow: low}, ask.Tick{}, now)
	return w, reading
}

// at is the place after the blocks.
func at(blocks []block) Cursor {
	last := len(blocks) - 1
	return Cursor{Known: true, Position: int64(last), ID: `"` + blocks[last].ID + `"`, Version: uint64(last + 1)}
}

// The walk goes back to the newest position that both branches have, with few calls,
// even if these take longer than the tick has, and goes on from there.
func TestTurnBack(t *testing.T) {
	const last = 100
	for _, tt := range []struct {
		fork   int    // the first block that differs
		first  int    // the first block that the stream holds
		others uint64 // messages of other topics between two
		to     int64
		id     string
	}{
		{fork: last, to: last - 1, id: `"99"`},
		{fork: 95, to: 94, id: `"94"`},
		{fork: 1, to: 0, id: `"0"`},
		{fork: 0, to: -1},
		{fork: 10, others: 99, to: 9, id: `"9"`}, // older than the recent messages
		{fork: 10, first: 50, to: 49},            // older than the stream
	} {
		t.Run(fmt.Sprint(tt.fork, " of ", tt.first, " with ", tt.others), func(t *testing.T) {
			was := chain(last, tt.fork, "a")
			u := &upstream{blocks: chain(last+1, tt.fork, "b"), publish: published(was, tt.first)}
			u.takes, u.others = 1500*time.Millisecond, tt.others
			r := newRig(t, u, ".id", ".parent")
			synctest.Test(t, func(t *testing.T) {
				w, reading := r.walk(t, at(was), 0, last+1)
				if reading.Failure != nil || len(w.Steps) < 2 {
					t.Fatalf("failure %v, steps %d, why %s", reading.Failure, len(w.Steps), w.Why)
				}
				back := w.Steps[0].Event
				var v event.Reorganisation
				if err := json.Unmarshal(back.Data, &v); err != nil {
					t.Fatal(err)
				}
				if r := v.Reorganised; *back.Position != tt.to || r.From != last || string(r.ID) != tt.id {
					t.Errorf("taken back to %d: %s, want %d with id %s", *back.Position, back.Data, tt.to, tt.id)
				}
				if next := w.Steps[1].Event; *next.Position != tt.to+1 {
					t.Errorf("position %d comes next, want %d", *next.Position, tt.to+1)
				}
				// One call found the fork, each search halves what is left, and the steps have one each.
				searches := 1
				if tt.to < int64(tt.first) || tt.others > 0 {
					searches = 2 // among the recent messages, then among all
				}
				if most := 1 + searches*bits.Len(uint(last+1)) + len(w.Steps); len(u.asked) > most {
					t.Errorf("%d calls, want %d at most: %v", len(u.asked), most, u.asked)
				}
			})
		})
	}
}

// A failure in the middle of the search takes nothing back: the next tick tries again.
func TestTurnBackFails(t *testing.T) {
	was := chain(20, 10, "a")
	u := &upstream{blocks: chain(21, 10, "b"), publish: published(was, 0), failAt: 3}
	u.fails = &source.Failure{Reason: event.UpstreamError, Detail: "HTTP 503", Counts: true}
	r := newRig(t, u, ".id", ".parent")
	synctest.Test(t, func(t *testing.T) {
		w, reading := r.walk(t, at(was), 0, 21)
		if len(w.Steps) > 0 || w.AtHead {
			t.Errorf("steps %d, at head %v", len(w.Steps), w.AtHead)
		}
		want := fmt.Sprintf("position %d: HTTP 503", u.asked[2])
		if reading.Failure == nil || reading.Failure.Detail != want {
			t.Errorf("failure %v, want %s", reading.Failure, want)
		}
	})
}

// The recent messages are enough for a short reorganisation, whatever the stream holds.
func TestTurnBackReadsLittle(t *testing.T) {
	was := chain(20, 18, "a")
	var reads []uint64
	u := &upstream{blocks: chain(21, 18, "b"), publish: published(was, 0)}
	u.read = func(messages uint64) { reads = append(reads, messages) }
	r := newRig(t, u, ".id", ".parent")
	synctest.Test(t, func(t *testing.T) {
		if w, _ := r.walk(t, at(was), 0, 21); len(w.Steps) == 0 || *w.Steps[0].Event.Position != 17 {
			t.Errorf("steps %+v", w.Steps)
		}
		if !slices.Equal(reads, []uint64{recentMessages}) {
			t.Errorf("the stream was read for the last %v messages", reads)
		}
	})
}

// A head below the position means a reorganisation if the id there differs. With the
// same id the upstream is behind. Without ids it must stay there for maxAge.
func TestHeadBelow(t *testing.T) {
	const last, head = 20, 15
	for name, tt := range map[string]struct {
		fork    int
		ids     bool
		low     time.Duration // for how long the head has been there
		to      int64         // 0: nothing is taken back
		wantLow bool
	}{
		"other id":           {fork: 12, ids: true, to: 11},
		"same id":            {fork: last + 1, ids: true, low: time.Hour},
		"no ids, new":        {fork: last + 1, low: time.Minute, wantLow: true},
		"no ids, for maxAge": {fork: last + 1, low: time.Minute + 1, to: head, wantLow: true},
	} {
		t.Run(name, func(t *testing.T) {
			was, id, parent := chain(last, tt.fork, "a"), "", ""
			if tt.ids {
				id, parent = ".id", ".parent"
			}
			u := &upstream{blocks: chain(head, tt.fork, "b"), publish: published(was, 0)}
			r := newRig(t, u, id, parent)
			synctest.Test(t, func(t *testing.T) {
				w, reading := r.walk(t, at(was), tt.low, head)
				if reading.Failure != nil || w.HeadBelow != tt.wantLow {
					t.Errorf("failure %v, low %v, want low %v", reading.Failure, w.HeadBelow, tt.wantLow)
				}
				var to int64
				if len(w.Steps) > 0 && w.Steps[0].Event.Reorganised {
					to = *w.Steps[0].Event.Position
				}
				if to != tt.to || to == 0 && len(w.Steps) > 0 {
					t.Errorf("taken back to %d with %d steps, want %d", to, len(w.Steps), tt.to)
				}
				if tt.to == 0 && w.Why != "the head is 15, and position 20 is published" {
					t.Errorf("why: %q", w.Why)
				}
			})
		})
	}
}

// A quota that is used up ends the walk without a failure, and what was found stays.
func TestWalkWithinQuota(t *testing.T) {
	all := chain(20, 21, "")
	u := &upstream{blocks: all}
	r := newRig(t, u, "", "")
	r.up.Quota.SetLimit(3)
	synctest.Test(t, func(t *testing.T) {
		w, reading := r.walk(t, at(all[:11]), 0, 20)
		want := "position 14 of 20 is next, maxCallsPerMinute is reached"
		if len(w.Steps) != 3 || w.Why != want || reading.Failure != nil {
			t.Errorf("%d steps, failure %v, why %q", len(w.Steps), reading.Failure, w.Why)
		}
	})
}

// No call begins in the second half of the tick's time.
func TestWalkWithinTime(t *testing.T) {
	all := chain(20, 21, "")
	u := &upstream{blocks: all, takes: 700 * time.Millisecond}
	r := newRig(t, u, "", "")
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		w, reading := r.walk(t, at(all[:11]), 0, 20)
		if len(w.Steps) != 3 || w.AtHead || reading.Failure != nil || time.Since(begin) > r.Config.Timeout {
			t.Errorf("%d steps after %v, at head %v, failure %v", len(w.Steps), time.Since(begin), w.AtHead, reading.Failure)
		}
	})
}
