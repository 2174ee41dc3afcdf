package hub

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
)

// However the history has grown and been cut, its events are found by topic as
// they are by looking at each, and so are its deletions.
func TestHistoryByTopic(t *testing.T) {
	h := history{max: 500, maxBytes: 1 << 20}
	rng := rand.New(rand.NewPCG(1, 2))
	seq := uint64(0)
	for range 5000 {
		seq += 1 + rng.Uint64N(3)
		if rng.IntN(2000) == 0 {
			h.restart(seq - 1)
		}
		h.add(Event{&event.Event{Topic: fmt.Sprintf("a.k%d", rng.IntN(30)), Deleted: rng.IntN(20) == 0, Data: make([]byte, rng.IntN(2)*rng.IntN(4000))}, seq})
		since := h.from + rng.Uint64N(seq-h.from+1)
		all, ok := h.after(since)
		if !ok {
			t.Fatalf("%d is before %d", since, h.from)
		}
		var patterns []string
		for range rng.IntN(6) {
			patterns = append(patterns, fmt.Sprintf("a.k%d", rng.IntN(35)))
		}
		slices.Sort(patterns)
		patterns = slices.Compact(patterns)
		var want, gone []Event
		for _, p := range all {
			if slices.Contains(patterns, p.Topic) {
				want = append(want, p)
			}
			if p.Deleted {
				gone = append(gone, p)
			}
		}
		if have := h.matching(since, patterns, 1<<30); !slices.Equal(have, want) {
			t.Fatalf("since %d: %d events of %v, want %d", since, len(have), patterns, len(want))
		}
		if have := h.matching(since, append(patterns, "b.>"), 1<<30); !slices.Equal(have, want) {
			t.Fatalf("since %d: %d events of %v and a pattern, want %d", since, len(have), patterns, len(want))
		}
		if have := after(h.deleted, since); !slices.Equal(have, gone) {
			t.Fatalf("since %d: %d deletions, want %d", since, len(have), len(gone))
		}
	}
	if have := h.matching(h.from, []string{"a.>"}, 10); len(have) != 11 {
		t.Errorf("%d events, want one more than 10", len(have))
	}
}

// What is owed to a client with five topics of its own takes no longer because
// others have many events.
func BenchmarkOwed(b *testing.B) {
	h := history{max: 65_536, maxBytes: 64 << 20}
	for i := range 65_536 {
		h.add(Event{&event.Event{Topic: fmt.Sprintf("bench.p.k%d", i%5000)}, uint64(i + 1)})
	}
	patterns := []string{"bench.p.k1", "bench.p.k1000", "bench.p.k2000", "bench.p.k3000", "bench.p.k4000"}
	for name, more := range map[string][]string{"topics": nil, "pattern": {"other.*"}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if n := len(h.matching(55_536, append(patterns, more...), MaxReplay)); n != 10 {
					b.Fatal(n)
				}
			}
		})
	}
}

// That a client is owed too much is found once for a feed, and holds for those
// who have seen less, as long as it is the same history.
func TestTooFarIsRemembered(t *testing.T) {
	h := newHub(t)
	h.view.history.max, h.view.history.maxBytes = 65_536, 64<<20
	h.Reset("E")
	h.Snapshot(nil, 0)
	var msgs []Record
	for i := range uint64(MaxReplay + 2) {
		msgs = append(msgs, Record{Seq: i + 1, Stored: time.Now(), Event: &event.Event{Topic: "a.x", Poll: "a.x", Version: i + 1, Data: []byte("1")}})
	}
	h.Append(msgs, MaxReplay+2, true)
	v := &h.view // nothing else runs
	f := v.Join([]string{"a.>"}, JSON, 0)
	for _, tt := range []struct {
		since  uint64
		events int // 0: too far
		far    uint64
	}{{2, MaxReplay, 0}, {0, 0, 1}, {1, 0, 2}, {0, 0, 2}, {2, MaxReplay, 2}, {MaxReplay, 2, 2}} {
		r := v.since(&wire.Since{Epoch: "E", Seq: tt.since}, f, nil)
		if want := map[bool]string{true: wire.NotResumedTooFar}[tt.events == 0]; r.Reason != want || len(r.events) != tt.events || f.tooFar.below != tt.far {
			t.Errorf("since %d: %d events, %q, far %d; want %d, %q, %d", tt.since, len(r.events), r.Reason, f.tooFar.below, tt.events, want, tt.far)
		}
	}
	v.history.restart(0)
	v.history.add(Event{msgs[MaxReplay+1].Event, MaxReplay + 2})
	if r := v.since(&wire.Since{Epoch: "E", Seq: 1}, f, nil); r.Reason != "" || len(r.events) != 1 {
		t.Errorf("in another history: %d events, %q", len(r.events), r.Reason)
	}
}

// A history that is full moves on while the stream is read back; what is read
// overlaps it by enough.
func TestReachOfAFullHistory(t *testing.T) {
	h := history{max: 80, maxBytes: 1 << 20}
	h.restart(1000)
	seq := uint64(1000)
	add := func(n int) {
		for range n {
			seq++
			h.add(Event{&event.Event{Topic: "a.x"}, seq})
		}
	}
	if add(60); h.reach() != 1000 {
		t.Errorf("reach %d, want where it begins", h.reach())
	}
	add(100)
	at := h.reach()
	if add(9); at < h.from {
		t.Errorf("after 9 events more it begins at %d, past %d", h.from, at)
	}
}
