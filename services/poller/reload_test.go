package poller

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/breaker"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/pollertest"
	"github.com/pollcast/pollcast/services/poller/runner"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// several is a configuration of sources that all ask the same upstream.
func several(url string, interval time.Duration, names ...string) config.Config {
	c := config.Config{Sources: map[string]config.Source{}}
	for _, name := range names {
		c.Sources[name] = config.Source{
			Upstreams: []string{url}, Breaker: config.Breaker{Failures: 5, OpenFor: time.Hour},
			Polls: map[string]config.Poll{"status": {Interval: interval, Method: name}},
		}
	}
	return c
}

func (r *running) source(name string) *supervisor {
	for _, s := range r.sources.list() {
		if s.name == name {
			return s
		}
	}
	return nil
}

// changeOf counts how often something happened to a source's lease.
func (r *running) changes(source, change string) float64 {
	return testutil.ToFloat64(r.metrics.runner.LeaseChanges.WithLabelValues(source, change))
}

func TestReload(t *testing.T) {
	s, u, down := bustest.Start(t), newRPC(t), newRPC(t)
	down.set("503")
	w := watch(t, s)
	c := several(u.URL, 100*time.Millisecond, "same", "other", "away")
	broken := c.Sources["other"]
	broken.Upstreams = []string{down.URL, u.URL}
	broken.Polls["old"] = config.Poll{Interval: 100 * time.Millisecond, Method: "old"}
	c.Sources["other"] = broken
	p := run(t, c, s.Config())
	w.events("same.status", "other.status", "other.old", "away.status")
	pollertest.Eventually(t, "the first upstream's circuit opens", func() bool {
		return p.source("other").runner.Load().Upstreams.List[0].Circuit.Snapshot().State == event.Open
	})
	same, sameRunner, tenure := p.source("same"), p.source("same").runner.Load(), p.source("same").tenure.Load()
	other := p.source("other").tenure.Load()
	circuit, calls := p.source("other").runner.Load().Upstreams.List[0].Circuit, down.count()

	now := several(u.URL, 100*time.Millisecond, "same", "other", "new")
	changed := now.Sources["other"]
	changed.Upstreams = broken.Upstreams
	changed.Polls["more"] = config.Poll{Interval: 100 * time.Millisecond, Method: "more"}
	now.Sources["other"] = changed
	from := time.Now()
	have, err := p.Reload(t.Context(), now)
	want := Changes{Added: []string{"new"}, Changed: []string{"other"}, Removed: []string{"away"}, Unchanged: []string{"same"}}
	if err != nil || fmt.Sprint(have) != fmt.Sprint(want) {
		t.Fatalf("have %+v, %v; want %+v", have, err, want)
	}

	// What was not named was not touched.
	if p.source("same") != same || same.runner.Load() != sameRunner || same.tenure.Load() != tenure || p.changes("same", "acquired") != 1 {
		t.Error("the same source was touched")
	}
	// What changed kept its lease, its circuits, and counts on.
	w.events("other.more", "new.status")
	if r := p.source("other"); r.tenure.Load() != other || p.changes("other", "released") != 0 {
		t.Error("the changed source lost its lease")
	} else if r.runner.Load().Upstreams.List[0].Circuit != circuit || circuit.Snapshot().State != event.Open || down.count() != calls {
		t.Errorf("the changed source's circuit is %+v, %d calls went through", circuit.Snapshot(), down.count()-calls)
	}
	if d := p.source("other").runner.Load().Polls[1]; d.Topic != "other.status" || d.Status().Version != 1 || d.Status().Stale {
		t.Errorf("the poll that stayed: %+v", d.Status())
	}
	u.change()
	w.until("the next event of the poll that stayed", func(m bus.Message) bool {
		return m.Event != nil && m.Event.Topic == "other.status" && m.Event.Version == 2
	})
	// What went has a last word, and is in no metric.
	for _, topic := range []string{"other.old", "away.status"} {
		last := w.last(topic)
		if last == nil || !last.Stale || last.Reason != event.PollerSilent || last.Detail != runner.RemovedDetail || last.CheckedAt.Before(from.Add(-time.Second)) {
			t.Errorf("the last word on %s: %+v", topic, last)
		}
	}
	if p.source("away") != nil || p.Status().Reload == nil || !p.Status().Reload.OK {
		t.Errorf("status: %+v", p.Status())
	}
	if text := gathered(t, p); strings.Contains(text, `"away`) || strings.Contains(text, `"other.old"`) || !strings.Contains(text, `"new"`) {
		t.Errorf("metrics:\n%s", text)
	}
	nc, js, names := s.JetStream()
	defer nc.Close()
	kv, err := js.KeyValue(t.Context(), names.LeaseBucket())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Get(t.Context(), "away"); err == nil {
		t.Error("the removed source's lease is held")
	}

	// A mistake changes nothing.
	before, list := gatheredSources(p), p.sources.list()
	bad := several("ftp://nowhere", time.Nanosecond, "same", "worse")
	if _, err := p.Reload(t.Context(), bad); !errors.Is(err, config.ErrConfig) || strings.Count(err.Error(), "\n") < 3 {
		t.Errorf("a bad configuration: %v", err)
	}
	if after := gatheredSources(p); after != before || !slices.Equal(list, p.sources.list()) {
		t.Errorf("a refused reload changed %s to %s", before, after)
	}
	if st := p.Status().Reload; st.OK || !strings.Contains(st.Problem, "ftp") {
		t.Errorf("status: %+v", st)
	}
	if ok := testutil.ToFloat64(p.metrics.reloadOK); ok != 0 {
		t.Errorf("config_last_reload_successful is %v, want 0", ok)
	}
	if n := testutil.ToFloat64(p.metrics.reloads.WithLabelValues("refused")); n != 1 {
		t.Errorf("reloads refused: %v, want 1", n)
	}
}

// events waits until each topic has had an event.
func (w *watcher) events(topics ...string) {
	w.t.Helper()
	had := map[string]bool{}
	w.until(fmt.Sprint("events of all of ", topics), func(m bus.Message) bool {
		if m.Event != nil {
			had[m.Event.Topic] = true
		}
		return !slices.ContainsFunc(topics, func(t string) bool { return !had[t] })
	})
}

// last is the last freshness record of a poll that was seen so far.
func (w *watcher) last(poll string) (f *event.Freshness) {
	w.t.Helper()
	w.until("the last word on "+poll, func(m bus.Message) bool {
		for _, m := range w.seen {
			if m.Fresh != nil && m.Fresh.Poll == poll {
				f = m.Fresh
			}
		}
		return f != nil && f.Detail == runner.RemovedDetail
	})
	return f
}

func gathered(t *testing.T, r *running) string {
	t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		for _, m := range f.Metric {
			fmt.Fprintln(&b, f.GetName(), m)
		}
	}
	return b.String()
}

func gatheredSources(r *running) string {
	var names []string
	for _, s := range r.Status().Sources {
		names = append(names, s.Name)
	}
	return fmt.Sprint(names)
}

// A thousand reloads leave as many goroutines and circuits as there were.
func TestReloadLeaksNothing(t *testing.T) {
	s, u := bustest.Start(t), newRPC(t)
	configs := []config.Config{
		several(u.URL, time.Hour, "leak-a", "leak-b"),
		several(u.URL, 30*time.Minute, "leak-a", "leak-b"), // both changed
		several(u.URL, time.Hour, "leak-b", "leak-c"),      // one gone, one new
	}
	p := run(t, configs[0], s.Config())
	pollertest.Eventually(t, "it polls", func() bool { return p.source("leak-a").Owned() && p.source("leak-b").Owned() })
	var goroutines, circuits int
	for i := range 1000 {
		if _, err := p.Reload(t.Context(), configs[(i+1)%len(configs)]); err != nil {
			t.Fatal(err)
		}
		if i == 30 {
			u.CloseClientConnections()
			goroutines, circuits = settled(), countNames("leak-")
		}
	}
	u.CloseClientConnections()
	if n := countNames("leak-"); n > circuits {
		t.Errorf("%d circuits after 1000 reloads, %d after 30", n, circuits)
	}
	pollertest.Eventually(t, "no more goroutines than before", func() bool { return settled() <= goroutines+5 })
	if p.changes("leak-b", "acquired") != 1 || p.changes("leak-b", "released") != 0 {
		t.Error("a source that was there all the time gave its lease away")
	}
}

func settled() int { time.Sleep(20 * time.Millisecond); return runtime.NumGoroutine() }

// countNames counts what hystrix's table holds for sources of a prefix.
func countNames(prefix string) (n int) {
	return breaker.KnownNames(prefix)
}

// Before Run, while NATS is awaited, on a standby and at the end a reload is as
// good as any.
func TestReloadAtAnyTime(t *testing.T) {
	s, u := bustest.Start(t), newRPC(t)
	b := s.Config()
	owner := run(t, several(u.URL, 100*time.Millisecond, "one", "two"), b)
	pollertest.Eventually(t, "the first owns both", func() bool { return owner.source("one").Owned() && owner.source("two").Owned() })
	p, err := New(t.Context(), Options{Config: several(u.URL, 100*time.Millisecond, "one")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Reload(t.Context(), several(u.URL, 100*time.Millisecond, "two")); err != nil || len(p.sources.list()) != 1 || p.sources.list()[0].name != "two" {
		t.Errorf("before Run: %v", err)
	}
	p.Close()

	standby := run(t, several(u.URL, 200*time.Millisecond, "one", "two"), b)
	pollertest.Eventually(t, "the second stands by", func() bool { return standby.Status().Sources[1].Owner == owner.owner })
	if _, err := standby.Reload(t.Context(), several(u.URL, 100*time.Millisecond, "one", "two")); err != nil {
		t.Fatal(err)
	}
	owner.stop()
	pollertest.Eventually(t, "the second takes over", func() bool { return standby.source("one").Owned() && standby.source("two").Owned() })
	if have := standby.source("one").runner.Load().Polls[0].Config.Interval; have != 100*time.Millisecond {
		t.Errorf("it polls every %v", have)
	}
	standby.stop()
	if _, err := standby.Reload(t.Context(), several(u.URL, time.Second, "one", "three")); err == nil {
		t.Error("a poller that has ended was reloaded")
	}
}

// A source that is reloaded again and again keeps its lease: renewals do not wait
// for a pause between reloads.
func TestReloadsKeepLease(t *testing.T) {
	s, u := bustest.Start(t), newRPC(t)
	b := s.Config()
	b.LeaseTime = 2 * time.Second
	p := run(t, several(u.URL, time.Hour, "often"), b)
	pollertest.Eventually(t, "it polls", func() bool { return p.source("often").Owned() })
	tenure, reloads := p.source("often").tenure.Load(), 0
	for start := time.Now(); time.Since(start) < 3*b.LeaseTime; reloads++ {
		if _, err := p.Reload(t.Context(), several(u.URL, time.Hour-time.Duration(1+reloads%2)*time.Minute, "often")); err != nil {
			t.Fatal(err)
		}
	}
	pollertest.Eventually(t, "it polls", func() bool { return p.source("often").Owned() })
	if p.source("often").tenure.Load() != tenure || p.changes("often", "lost") != 0 {
		t.Errorf("the lease was lost in the course of %d reloads:\n%s", reloads, p.log)
	}
}
