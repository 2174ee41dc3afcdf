package record

import (
	"context"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/lease"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

func TestPutChanges(t *testing.T) {
	s := bustest.Start(t)
	_, _, names := s.JetStream()
	m := NewMetrics()
	pub := &Publisher{Conn: s.Bus(), Names: names, Metrics: m, KeepDeleted: time.Second, Repair: func(context.Context) error { return nil }}
	ten := &lease.Tenure{Fence: 5, Start: time.Now()}
	ten.Renewed(ten.Start, time.Hour)
	at := clock.Stamp(time.Now())
	key := func(known Copy, value string, slot int) *Change {
		k := &Change{Token: "k", Known: known, Slot: at.Add(time.Duration(slot) * time.Second)}
		k.Event = &event.Event{Topic: "a.b.k", Poll: "a.b", Key: "k", Data: []byte(value), Deleted: value == "", ChangedAt: at, AsOf: at}
		if value != "" {
			var err error
			if k.Digest, err = jq.DigestOf([]byte(value), nil); err != nil {
				t.Fatal(err)
			}
		}
		return k
	}
	put := func(k *Change) error {
		t.Helper()
		return pub.putChanges(t.Context(), Job{Topic: "a.b", Tenure: ten, Changes: []*Change{k}})
	}
	first := key(Copy{}, "1", 0)
	if err := put(first); err != nil || first.Known.Version != 1 || !first.Known.Has {
		t.Fatalf("first: %+v, %v", first.Known, err)
	}
	lost := key(Copy{}, "1", 0) // its acknowledgement was lost
	if err := put(lost); err != nil || lost.Known.Version != 1 || !lost.Known.Has || lost.Taken {
		t.Errorf("again: %+v, %v", lost, err)
	}
	other := key(Copy{}, "2", 0)
	if err := put(other); !isAgain(err) || !other.Taken || other.Known.Version != 1 {
		t.Errorf("slot taken: %+v, %v", other, err)
	}
	behind := key(first.Known, "2", 1)
	if err := pub.putChanges(t.Context(), Job{Topic: "a.b", Tenure: ten, Known: State{Guard: 99}, Changes: []*Change{behind}}); err == nil || weight(err) != 2 {
		t.Errorf("wrong guard: %v", err)
	}
	gone := key(first.Known, "", 2)
	if err := put(gone); err != nil || gone.Known.Version != 2 || gone.Known.Has {
		t.Errorf("deletion: %+v, %v", gone.Known, err)
	}
	pollertest.Eventually(t, "the deletion goes, and nothing comes to light", func() bool {
		m, err := pub.Last(t.Context(), names.In("a.b.k"))
		if err != nil {
			t.Fatal(err)
		}
		if m.Event != nil && !m.Event.Deleted {
			t.Fatalf("back from the past: %s", pollertest.Show(m))
		}
		return m.Event == nil
	})
	ten.Renewed(ten.Start, 0)
	if err := put(key(Copy{}, "3", 9)); weight(err) != 4 {
		t.Errorf("after the lease: %v", err)
	}
}

func isAgain(err error) bool { return weight(err) == 1 }
