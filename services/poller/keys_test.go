package poller

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
)

// answers is an upstream's answer that a test changes.
type answers struct{ atomic.Pointer[string] }

func (a *answers) set(s string) { a.Store(&s) }

func (a *answers) answer(context.Context, string, string) (string, error) { return *a.Load(), nil }

// values is what the events of a stage say by now, topic by topic.
func (s *stage) values() map[string]string {
	events, _ := s.said()
	out := map[string]string{}
	for _, e := range events {
		if out[e.Topic] = fmt.Sprintf("%d %s", e.Version, e.Data); e.Deleted {
			out[e.Topic] = fmt.Sprintf("%d deleted", e.Version)
		}
	}
	return out
}

func (s *stage) wantValues(when string, want map[string]string) {
	s.Helper()
	have := s.values()
	for topic := range have {
		if short, ok := strings.CutPrefix(topic, s.r.name+"."); ok {
			have[short] = have[topic]
			delete(have, topic)
		}
	}
	if !maps.Equal(have, want) {
		s.Errorf("%s: have %v, want %v", when, have, want)
	}
}

func TestPollKeys(t *testing.T) {
	var a answers
	s := newStage(t, Source{Polls: map[string]Poll{"d": {
		Interval: time.Second, Method: "d", Each: ".[]", Key: ".n", MaxKeys: 3, Ignore: []string{"t"},
	}}}, a.answer)
	a.set(`[{"n":"a","v":1},{"n":"/b","v":1}]`)
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.start()
		defer s.end()
		time.Sleep(3 * time.Second)
		s.wantValues("first", map[string]string{"d.a": `1 {"n":"a","v":1}`, "d.%2Fb": `1 {"n":"/b","v":1}`})
		events, fresh := s.said()
		for _, e := range events {
			if e.Poll != s.r.polls[0].topic || e.Topic == e.Poll || e.Key != "a" && e.Key != "/b" {
				t.Errorf("event %+v", e)
			}
		}
		if f := fresh[len(fresh)-1]; f.Poll != s.r.polls[0].topic || f.Stale || f.AsOf.IsZero() {
			t.Errorf("freshness %+v", f)
		}
		if st := s.r.polls[0].look(); st.Keys != 2 || st.Unpublished {
			t.Errorf("status %+v", st)
		}
		a.set(`[{"n":"/b","v":1,"t":5},{"n":"a","v":2}]`)
		time.Sleep(time.Second)
		s.wantValues("one changed", map[string]string{"d.a": `2 {"n":"a","v":2}`, "d.%2Fb": `1 {"n":"/b","v":1}`})
		a.set(`[{"n":"a","v":2}]`)
		time.Sleep(2 * time.Second)
		s.wantValues("one gone", map[string]string{"d.a": `2 {"n":"a","v":2}`, "d.%2Fb": `2 deleted`})
		a.set(`[{"n":"a","v":2},{"n":"/b","v":1}]`)
		time.Sleep(time.Second)
		s.wantValues("it is back", map[string]string{"d.a": `2 {"n":"a","v":2}`, "d.%2Fb": `3 {"n":"/b","v":1}`})

		asOf := s.last(0).AsOf
		before := len(s.values())
		a.set(`[1,2,3,4]`)
		time.Sleep(20 * time.Second)
		s.wantLast("not what was expected", 0, true, event.BadResponse, event.Closed, 20)
		if f := s.last(0); !strings.Contains(f.Detail, "item 1: key: expected an object") && !strings.Contains(f.Detail, "more than 3 items") {
			t.Errorf("detail %q", f.Detail)
		} else if f.AsOf.After(asOf.Add(2 * time.Second)) {
			t.Errorf("as of %v, want about %v", f.AsOf, asOf)
		}
		if len(s.values()) != before {
			t.Error("events of a bad answer")
		}
		a.set(`[]`)
		time.Sleep(time.Second)
		s.wantLast("empty is an answer", 0, false, "", event.Closed, 0)
		s.wantValues("all gone", map[string]string{"d.a": `3 deleted`, "d.%2Fb": `4 deleted`})
		time.Sleep(keepDeleted + 2*time.Second)
		p := s.r.polls[0]
		if n := p.look().Keys; n != 0 {
			t.Errorf("%d keys left", n)
		}
	})
	if n := len(s.r.polls[0].keys); n != 0 {
		t.Errorf("%d keys remembered for ever", n)
	}
}

func TestPollEmitAlways(t *testing.T) {
	s := newStage(t, Source{Polls: map[string]Poll{"a": {Interval: time.Second, Method: "a", Emit: "always"}}},
		func(context.Context, string, string) (string, error) { return `1`, nil })
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.start()
		defer s.end()
		time.Sleep(time.Minute)
		events, _ := s.said()
		if n := len(events); n < 59 || n > 62 {
			t.Fatalf("%d events in 60 readings", n)
		}
		first, last := events[0], events[len(events)-1]
		if last.Version != uint64(len(events)) || !last.ChangedAt.Equal(first.ChangedAt) || last.AsOf.Sub(first.AsOf) < 58*time.Second {
			t.Errorf("last event %+v, first %+v", last, first)
		}
	})
}

func TestPollDeadband(t *testing.T) {
	n := 0
	s := newStage(t, Source{Polls: map[string]Poll{"a": {Interval: time.Second, Method: "a", Deadband: map[string]float64{"cpu": 2}}}},
		func(context.Context, string, string) (string, error) {
			n++
			return fmt.Sprintf(`{"cpu":%d}`, n), nil
		})
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.start()
		defer s.end()
		time.Sleep(30 * time.Second)
		events, _ := s.said()
		var have []string
		for _, e := range events[:4] {
			have = append(have, string(e.Data))
		}
		if want := []string{`{"cpu":1}`, `{"cpu":4}`, `{"cpu":7}`, `{"cpu":10}`}; !slices.Equal(have, want) {
			t.Errorf("events %v, want %v", have, want)
		}
		if f := s.last(0); time.Since(f.AsOf) > 1100*time.Millisecond || f.Stale {
			t.Errorf("freshness %+v", f)
		}
	})
}

func TestPollMustAdvance(t *testing.T) {
	var a answers
	a.set(`{"h":1}`)
	s := newStage(t, Source{Polls: map[string]Poll{"a": {
		Interval: time.Second, Method: "a", MustAdvance: MustAdvance{Path: ".h", Within: 5 * time.Second},
	}}}, a.answer)
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.start()
		defer s.end()
		time.Sleep(4 * time.Second)
		s.wantLast("in time", 0, false, "", event.Closed, 0)
		time.Sleep(4 * time.Second)
		s.wantLast("stands still", 0, true, event.NotAdvancing, event.Closed, 0)
		if f := s.last(0); time.Since(f.AsOf) > 4*time.Second || !strings.Contains(f.Detail, "more than 5s") {
			t.Errorf("record %+v", f)
		}
		a.set(`{"h":2}`)
		time.Sleep(time.Second)
		s.wantLast("advances", 0, false, "", event.Closed, 0)
	})
	if n := strings.Count(s.logs.String(), "value is stale"); n != 1 {
		t.Errorf("%d lines about staleness, want 1", n)
	}
}

// Keys through a real stream: restored at start, deleted when they are gone
// meanwhile, and nothing old comes to light when the deletion goes.
func TestKeysInStream(t *testing.T) {
	s := bustest.Start(t)
	var a answers
	a.set(`{"a":1,"b.c":1}`)
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
	c := Config{Sources: map[string]Source{"s": {Upstreams: []string{u.URL}, Polls: map[string]Poll{"p": {
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
	a.set("")
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
			t.Errorf("a payload was sent again: %s", show(m))
		}
	}

	// One went meanwhile.
	a.set(`{"a":1}`)
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

func TestPutKeys(t *testing.T) {
	s := bustest.Start(t)
	nc, js, names := s.JetStream()
	m := newRecordMetrics()
	pub := &publisher{nc: nc, js: js, names: names, metrics: m, keepDeleted: time.Second, repair: func(context.Context) error { return nil }}
	ten := &tenure{fence: 5, start: time.Now()}
	ten.renewed(ten.start, time.Hour)
	at := stamp(time.Now())
	key := func(known held, value string, slot int) *keyJob {
		k := &keyJob{token: "k", known: known, slot: at.Add(time.Duration(slot) * time.Second)}
		k.event = &event.Event{Topic: "a.b.k", Poll: "a.b", Key: "k", Data: []byte(value), Deleted: value == "", ChangedAt: at, AsOf: at}
		if value != "" {
			var err error
			if k.digest, err = digestOf([]byte(value), nil); err != nil {
				t.Fatal(err)
			}
		}
		return k
	}
	put := func(k *keyJob) error {
		t.Helper()
		return pub.putKeys(t.Context(), job{topic: "a.b", tenure: ten, keys: []*keyJob{k}})
	}
	first := key(held{}, "1", 0)
	if err := put(first); err != nil || first.known.version != 1 || !first.known.has {
		t.Fatalf("first: %+v, %v", first.known, err)
	}
	lost := key(held{}, "1", 0) // its acknowledgement was lost
	if err := put(lost); err != nil || lost.known.version != 1 || !lost.known.has || lost.taken {
		t.Errorf("again: %+v, %v", lost, err)
	}
	other := key(held{}, "2", 0)
	if err := put(other); !isAgain(err) || !other.taken || other.known.version != 1 {
		t.Errorf("slot taken: %+v, %v", other, err)
	}
	behind := key(first.known, "2", 1)
	if err := pub.putKeys(t.Context(), job{topic: "a.b", tenure: ten, known: stored{guard: 99}, keys: []*keyJob{behind}}); err == nil || weight(err) != 2 {
		t.Errorf("wrong guard: %v", err)
	}
	gone := key(first.known, "", 2)
	if err := put(gone); err != nil || gone.known.version != 2 || gone.known.has {
		t.Errorf("deletion: %+v, %v", gone.known, err)
	}
	eventually(t, "the deletion goes, and nothing comes to light", func() bool {
		m, err := pub.last(t.Context(), names.In("a.b.k"))
		if err != nil {
			t.Fatal(err)
		}
		if m.Event != nil && !m.Event.Deleted {
			t.Fatalf("back from the past: %s", show(m))
		}
		return m.Event == nil
	})
	ten.ends.Store(0)
	if err := put(key(held{}, "3", 9)); weight(err) != 4 {
		t.Errorf("after the lease: %v", err)
	}
}

func isAgain(err error) bool { return weight(err) == 1 }

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
	run(t, Config{Sources: map[string]Source{"s": {Upstreams: []string{u.URL}, Polls: map[string]Poll{"p": {
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

// A panic in an expression is its poll's failure.
func TestPollExpressionPanics(t *testing.T) {
	s := newStage(t, Source{Polls: map[string]Poll{"a": {Interval: time.Second, Method: "a", Each: ".[]", Key: "."}}},
		func(context.Context, string, string) (string, error) { return `[1]`, nil })
	s.r.polls[0].shape.key = &expression{name: "key"} // without code
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.start()
		defer s.end()
		time.Sleep(20 * time.Second)
		if f := s.last(0); f.Reason != event.BadResponse || f.Breaker != event.Closed || !strings.HasPrefix(f.Detail, "panic: ") {
			t.Errorf("record %+v", f)
		}
	})
}
