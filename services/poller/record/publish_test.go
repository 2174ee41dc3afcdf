package record

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/lease"
)

// A clock that was set back comes by the same slots again. What is stored there
// is no sign that the value of now is stored.
func TestSlotAgain(t *testing.T) {
	s := bustest.Start(t)
	_, _, names := s.JetStream()
	m := NewMetrics()
	pub := &Publisher{Conn: s.Bus(), Names: names, Metrics: m, KeepDeleted: time.Hour}
	ten := &lease.Tenure{Fence: 5, Start: time.Now()}
	ten.Renewed(ten.Start, time.Hour)
	var st State
	var known Copy
	put := func(value string, slot time.Time) error {
		d, err := jq.DigestOf([]byte(value), nil)
		if err != nil {
			t.Fatal(err)
		}
		c := &Change{
			Digest: d, Slot: slot, Known: known,
			Event: &event.Event{Topic: "a.b", Poll: "a.b", Data: []byte(value), AsOf: slot, ChangedAt: slot},
		}
		st, err = pub.Put(t.Context(), Job{Topic: "a.b", Changes: []*Change{c}, Known: st, Tenure: ten})
		known = c.Known
		return err
	}
	slot := clock.Stamp(time.Now())
	if err := errors.Join(put("1", slot), put("2", slot.Add(time.Second))); err != nil {
		t.Fatal(err)
	}
	if err := put("1", slot); !errors.Is(err, ErrSlotTaken) || known.Version != 2 {
		t.Errorf("the old value in its old slot: %v, version %d; want %v", err, known.Version, ErrSlotTaken)
	}
	if err := put("1", slot.Add(time.Millisecond)); err != nil || known.Version != 3 {
		t.Errorf("in a slot of its own: %v, version %d", err, known.Version)
	}
}

// Several ways in which a publish can have gone wrong end in one event per
// change, with versions that count by one.
func TestPublish(t *testing.T) {
	s := bustest.Start(t)
	_, js, names := s.JetStream()
	m := NewMetrics()
	pub := &Publisher{Conn: s.Bus(), Names: names, Metrics: m, KeepDeleted: time.Hour, Repair: func(context.Context) error { return nil }}
	ten := &lease.Tenure{Fence: 5, Start: time.Now()}
	ten.Renewed(ten.Start, time.Hour)
	slot := time.Now()
	at := clock.Stamp(slot)
	// held is what the stream is known to hold; put brings it up to date.
	type held struct {
		State
		Copy
	}
	put := func(value string, known held, fence bool) (held, error) {
		t.Helper()
		d, err := jq.DigestOf([]byte(value), nil)
		if err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Millisecond)
		c := &Change{
			Digest: d, Slot: slot, Known: known.Copy,
			Event: &event.Event{Topic: "a.b", Poll: "a.b", Data: []byte(value), AsOf: at, ChangedAt: at},
		}
		j := Job{Topic: "a.b", Changes: []*Change{c}, Known: known.State, Tenure: ten}
		f := &event.Freshness{Poll: "a.b", AsOf: at, CheckedAt: at, Breaker: event.Closed}
		if j.Fresh = f; fence {
			j.Fence, j.Fresh = f, nil
		}
		known.State, err = pub.Put(t.Context(), j)
		if known.Copy = c.Known; known.Recovered != nil {
			known.Copy.Learn(known.Recovered.Own(), nil)
			known.Recovered = nil
		}
		return known, err
	}
	st, err := put("1", held{}, false)
	if err != nil || st.Version != 1 || !st.Has || st.Guard == 0 || st.Fresh == nil {
		t.Fatalf("first: %+v, %v", st, err)
	}
	before := st

	// The acknowledgement of the event was lost: known is what was before it.
	st, err = put("1", held{State: State{Guard: before.Guard}}, true)
	if !errors.Is(err, ErrAgain) || st.Sync != Synced || st.Version != 1 || !st.Has || st.Digest != before.Digest || st.Guard <= before.Guard {
		t.Errorf("after a lost acknowledgement: %+v, %v", st, err)
	}
	before = st
	// The same slot again, by a poller that does not know: it is the same event.
	st, err = put("1", held{State: State{Guard: before.Guard}}, false)
	if err != nil || st.Version != 1 || !st.Has || st.Guard <= before.Guard {
		t.Errorf("same slot, same value: %+v, %v", st, err)
	}
	before = st
	// The same slot with another value.
	st, err = put("2", before, false)
	if !errors.Is(err, ErrSlotTaken) || st.Version != 1 {
		t.Errorf("same slot, other value: %+v, %v", st, err)
	}
	slot = slot.Add(time.Second)
	if st, err = put("2", st, false); err != nil || st.Version != 2 {
		t.Errorf("next slot: %+v, %v", st, err)
	}
	// Somebody of our own fence has moved on.
	slot = slot.Add(time.Second)
	st, err = put("3", before, false)
	if !errors.Is(err, ErrAgain) || st.Version != 2 || st.Guard == before.Guard {
		t.Errorf("behind: %+v, %v", st, err)
	}
	if st, err = put("3", st, false); err != nil || st.Version != 3 {
		t.Errorf("caught up: %+v, %v", st, err)
	}

	// The stream was made again: the version goes on.
	if err := js.DeleteStream(t.Context(), names.Stream()); err != nil {
		t.Fatal(err)
	}
	if _, err := bus.EnsureStream(t.Context(), js, names, s.Config()); err != nil {
		t.Fatal(err)
	}
	slot = slot.Add(time.Second)
	st, err = put("3", st, false)
	if !errors.Is(err, ErrAgain) || st.Version != 3 || st.Has || st.Guard != 0 {
		t.Errorf("a new stream: %+v, %v", st, err)
	}
	if st, err = put("3", st, false); err != nil || st.Version != 4 {
		t.Errorf("in the new stream: %+v, %v", st, err)
	}

	seq, err := pub.PutBreaker(t.Context(), &event.Breaker{Source: "a", At: at}, 0, ten)
	if err != nil || seq == 0 {
		t.Fatalf("breaker: %d, %v", seq, err)
	}
	if again, err := pub.PutBreaker(t.Context(), &event.Breaker{Source: "a", At: at.Add(1)}, 0, ten); !errors.Is(err, ErrAgain) || again != seq {
		t.Errorf("breaker with an old sequence: %d, %v; want %d", again, err, seq)
	}
	zombie := &lease.Tenure{Fence: 4, Start: time.Now()}
	zombie.Renewed(zombie.Start, time.Hour)
	if _, err := pub.PutBreaker(t.Context(), &event.Breaker{Source: "a", At: at.Add(2)}, 0, zombie); !errors.Is(err, lease.ErrFenced) {
		t.Errorf("breaker of an old owner: %v", err)
	}
}
