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
	var st Stored
	put := func(value string, slot time.Time) error {
		d, err := jq.DigestOf([]byte(value), nil)
		if err != nil {
			t.Fatal(err)
		}
		st, err = pub.Put(t.Context(), Job{
			Topic: "a.b", Digest: d, Slot: slot, Known: st, Tenure: ten,
			Event: &event.Event{Topic: "a.b", Poll: "a.b", Data: []byte(value), AsOf: slot, ChangedAt: slot},
		})
		return err
	}
	slot := clock.Stamp(time.Now())
	if err := errors.Join(put("1", slot), put("2", slot.Add(time.Second))); err != nil {
		t.Fatal(err)
	}
	if err := put("1", slot); !errors.Is(err, ErrSlotTaken) || st.Version != 2 {
		t.Errorf("the old value in its old slot: %v, version %d; want %v", err, st.Version, ErrSlotTaken)
	}
	if err := put("1", slot.Add(time.Millisecond)); err != nil || st.Version != 3 {
		t.Errorf("in a slot of its own: %v, version %d", err, st.Version)
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
	newJob := func(value string, known Stored) Job {
		d, err := jq.DigestOf([]byte(value), nil)
		if err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Millisecond)
		return Job{
			Topic: "a.b", Digest: d, Slot: slot, Known: known, Tenure: ten,
			Event: &event.Event{Topic: "a.b", Poll: "a.b", Data: []byte(value), AsOf: at, ChangedAt: at},
			Fresh: &event.Freshness{Poll: "a.b", AsOf: at, CheckedAt: at, Breaker: event.Closed},
		}
	}
	st, err := pub.Put(t.Context(), newJob("1", Stored{}))
	if err != nil || st.Version != 1 || !st.Has || st.Guard == 0 || st.Fresh == nil {
		t.Fatalf("first: %+v, %v", st, err)
	}
	before := st

	// The acknowledgement of the event was lost: known is what was before it.
	anew := newJob("1", Stored{Guard: before.Guard})
	anew.Fence, anew.Fresh = anew.Fresh, nil
	st, err = pub.Put(t.Context(), anew)
	if !errors.Is(err, ErrAgain) || !st.Synced || st.Version != 1 || !st.Has || st.Digest != before.Digest || st.Guard <= before.Guard {
		t.Errorf("after a lost acknowledgement: %+v, %v", st, err)
	}
	before = st
	// The same slot again, by whoever does not know.
	st, err = pub.Put(t.Context(), newJob("1", Stored{Guard: before.Guard}))
	if !errors.Is(err, ErrAgain) || st.Version != 1 || !st.Has {
		t.Errorf("same slot, same value: %+v, %v", st, err)
	}
	// The same slot with another value.
	st, err = pub.Put(t.Context(), newJob("2", before))
	if !errors.Is(err, ErrSlotTaken) || st.Version != 1 {
		t.Errorf("same slot, other value: %+v, %v", st, err)
	}
	slot = slot.Add(time.Second)
	if st, err = pub.Put(t.Context(), newJob("2", st)); err != nil || st.Version != 2 {
		t.Errorf("next slot: %+v, %v", st, err)
	}
	// Somebody of our own fence has moved on.
	slot = slot.Add(time.Second)
	st, err = pub.Put(t.Context(), newJob("3", before))
	if !errors.Is(err, ErrAgain) || st.Version != 2 || st.Guard == before.Guard {
		t.Errorf("behind: %+v, %v", st, err)
	}
	if st, err = pub.Put(t.Context(), newJob("3", st)); err != nil || st.Version != 3 {
		t.Errorf("caught up: %+v, %v", st, err)
	}

	// The stream was made anew: the version goes on.
	if err := js.DeleteStream(t.Context(), names.Stream()); err != nil {
		t.Fatal(err)
	}
	if _, err := bus.EnsureStream(t.Context(), js, names, s.Config()); err != nil {
		t.Fatal(err)
	}
	slot = slot.Add(time.Second)
	st, err = pub.Put(t.Context(), newJob("3", st))
	if !errors.Is(err, ErrAgain) || st.Version != 3 || st.Has || st.Guard != 0 {
		t.Errorf("a new stream: %+v, %v", st, err)
	}
	if st, err = pub.Put(t.Context(), newJob("3", st)); err != nil || st.Version != 4 {
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
