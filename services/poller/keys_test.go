package poller

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

// Keys through a real stream: restored at start, deleted when they are gone
// meanwhile, and nothing old comes to light when the deletion goes.
func TestKeysInStream(t *testing.T) {
	s := bustest.Start(t)
	var a pollertest.Answers
	a.Set(`{"a":1,"b.c":1}`)
	u := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct{ ID int }
		_ = json.NewDecoder(r.Body).Decode(&q)
		if *a.Load() == "" {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_, _ = fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%d,"result":%s}`, q.ID, *a.Load())
	}))
	t.Cleanup(u.Close)
	c := config.Config{Sources: map[string]config.Source{"s": {Upstreams: []string{u.URL}, Polls: map[string]config.Poll{"p": {
		Interval: 100 * time.Millisecond, Method: "m", Select: "to_entries", Each: ".[]", Key: ".key",
	}}}}}
	w := watch(t, s)
	first := run(t, c, s.Config())
	seen := map[string]bool{}
	w.until("both keys", func(m bus.Message) bool {
		if e := m.Event; e != nil {
			seen[e.Topic+" "+e.Key] = true
		}
		return len(seen) == 2
	})
	if !seen["s.p.a a"] || !seen["s.p.b%2Ec b.c"] {
		t.Errorf("keys %v", seen)
	}
	f := w.fresh("after the keys", func(f *event.Freshness) bool { return !f.Stale })
	first.stop()

	// The upstream is down: the values are there, with their age.
	a.Set("")
	w = watch(t, s)
	second := run(t, c, s.Config())
	if g := w.fresh("stale", func(f *event.Freshness) bool { return f.Stale && f.Reason == event.UpstreamError }); g.AsOf.Before(f.AsOf) {
		t.Errorf("as of %v, want %v or later", g.AsOf, f.AsOf)
	}
	if st := second.Status().Sources[0].Polls[0]; st.Keys != 2 {
		t.Errorf("status %+v", st)
	}
	second.stop()
	for _, m := range w.seen {
		if m.Event != nil {
			t.Errorf("a payload was sent again: %s", pollertest.Show(m))
		}
	}

	// One went meanwhile.
	a.Set(`{"a":1}`)
	w = watch(t, s)
	third := run(t, c, s.Config())
	e := w.event()
	if !e.Deleted || e.Topic != "s.p.b%2Ec" || e.Key != "b.c" || e.Version != 2 || e.Poll != "s.p" {
		t.Errorf("event %+v", e)
	}
	w.fresh("fresh", func(f *event.Freshness) bool { return !f.Stale })
	_, js, names := s.JetStream()
	stream, err := js.Stream(t.Context(), names.Stream())
	if err != nil {
		t.Fatal(err)
	}
	last, err := stream.GetLastMsgForSubject(t.Context(), names.In("s.p.b%2Ec"))
	if err != nil || last.Header.Get(jetstream.MsgTTLHeader) != "1h0m0s" {
		t.Fatalf("deletion %+v, %v", last, err)
	}
	third.stop()
	info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(names.In("s.p.b%2Ec")))
	if err != nil || info.State.Subjects[names.In("s.p.b%2Ec")] != 1 {
		t.Errorf("subjects %v, %v; want nothing beneath the deletion", info.State.Subjects, err)
	}

	// The poll has no keys any more: the topics of its keys go.
	p := c.Sources["s"].Polls["p"]
	p.Select, p.Each, p.Key = "", "", ""
	c.Sources["s"].Polls["p"] = p
	w = watch(t, s)
	fourth := run(t, c, s.Config())
	deleted, plain := false, false
	w.until("keys deleted, own value", func(m bus.Message) bool {
		if e := m.Event; e != nil {
			deleted = deleted || e.Topic == "s.p.a" && e.Deleted
			plain = plain || e.Topic == "s.p" && string(e.Data) == `{"a":1}`
		}
		return deleted && plain
	})
	fourth.stop()

	// And the other way round.
	p.Each, p.Key = "to_entries[]", ".key"
	c.Sources["s"].Polls["p"] = p
	w = watch(t, s)
	run(t, c, s.Config())
	w.until("own value deleted", func(m bus.Message) bool {
		return m.Event != nil && m.Event.Topic == "s.p" && m.Event.Deleted
	})
}

// More keys than are put at once.
func TestManyKeys(t *testing.T) {
	s := bustest.Start(t)
	const n = 300
	u := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct{ ID int }
		_ = json.NewDecoder(r.Body).Decode(&q)
		_, _ = fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%d,"result":[0`, q.ID)
		for i := 1; i < n; i++ {
			_, _ = io.WriteString(w, fmt.Sprint(",", i))
		}
		_, _ = io.WriteString(w, "]}")
	}))
	t.Cleanup(u.Close)
	w := watch(t, s)
	run(t, config.Config{Sources: map[string]config.Source{"s": {Upstreams: []string{u.URL}, Polls: map[string]config.Poll{"p": {
		Interval: time.Hour, Method: "m", Each: ".[]", Key: "tostring",
	}}}}}, s.Config())
	seen := map[string]bool{}
	w.until("freshness", func(m bus.Message) bool {
		if m.Event != nil {
			seen[m.Event.Topic] = true
		}
		return m.Fresh != nil && !m.Fresh.Stale
	})
	if len(seen) != n {
		t.Errorf("%d of %d keys before the record that confirms them", len(seen), n)
	}
}

// Keys that vanish while their first events are still being stored are deleted, each
// with the next version.
func TestKeysVanishWhileStored(t *testing.T) {
	s := bustest.Start(t)
	const n = 2000
	var vanished atomic.Bool // since the first of them was stored
	u := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `["base"`)
		if !vanished.Load() {
			for i := range n {
				_, _ = fmt.Fprintf(w, `,"ghost%d"`, i)
			}
		}
		_, _ = io.WriteString(w, "]")
	}))
	t.Cleanup(u.Close)
	w := watch(t, s)
	run(t, config.Config{Sources: map[string]config.Source{"s": {Driver: "http", Upstreams: []string{u.URL}, Polls: map[string]config.Poll{"p": {
		Interval: 500 * time.Millisecond, Each: ".[]", Key: ".", MaxKeys: n + 1,
	}}}}}, s.Config())
	versions, deleted := map[string]uint64{}, 0
	w.until("the deletion of every key", func(m bus.Message) bool {
		if e := m.Event; e != nil && e.Key != "base" {
			vanished.Store(true)
			if versions[e.Topic]++; e.Version != versions[e.Topic] {
				t.Errorf("%s: version %d, want %d", e.Topic, e.Version, versions[e.Topic])
			}
			if e.Deleted {
				deleted++
			}
		}
		return deleted > 0 && deleted == len(versions)
	})
}

// A stream that an earlier version made learns to roll up.
func TestStreamWithoutRollup(t *testing.T) {
	s := bustest.Start(t)
	_, js, names := s.JetStream()
	old := names.StreamConfig(s.Config())
	old.AllowRollup = false
	if _, err := js.CreateOrUpdateStream(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	stream, err := bus.EnsureStream(t.Context(), js, names, s.Config())
	if err != nil || !stream.CachedInfo().Config.AllowRollup {
		t.Fatalf("stream %+v, %v", stream, err)
	}
}
