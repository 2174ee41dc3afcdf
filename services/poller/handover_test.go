package poller

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

// All circuits of a source survive its poller, not only the one that changed
// last.
func TestRestartKeepsAllCircuits(t *testing.T) {
	s := bustest.Start(t)
	ups := []*rpc{newRPC(t), newRPC(t), newRPC(t)}
	c := oneSource(ups[0].URL, 100*time.Millisecond, time.Hour)
	src := c.Sources["host"]
	src.Upstreams = []string{ups[0].URL, ups[1].URL, ups[2].URL}
	c.Sources["host"] = src
	w := watch(t, s)
	first := run(t, c, s.Config())
	w.event()
	ups[0].set("503")
	ups[1].set("503")
	opened := map[string]time.Time{}
	for len(opened) < 2 {
		b := w.until("two open", func(m bus.Message) bool { return m.Breaker != nil && m.Breaker.To == event.Open }).Breaker
		opened[b.Upstream] = b.NextProbeAt
	}
	w.fresh("still fresh", func(f *event.Freshness) bool { return !f.Stale })
	first.stop()
	calls := [2]int{ups[0].count(), ups[1].count()}

	w = watch(t, s)
	second := run(t, c, s.Config())
	w.fresh("confirmed by the third", func(f *event.Freshness) bool {
		return !f.Stale && f.Breaker == event.Closed && f.AsOf.After(f.CheckedAt.Add(-time.Second))
	})
	n := ups[2].count()
	pollertest.Eventually(t, "more ticks", func() bool { return ups[2].count() > n+3 })
	for i, u := range ups[:2] {
		if have := u.count() - calls[i]; have != 0 {
			t.Errorf("upstream %d was asked %d times though its circuit was open", i, have)
		}
		st := second.Status().Sources[0].Upstreams[i]
		if st.State != event.Open || st.Failures != 5 || st.NextProbeAt.Sub(opened[u.URL]).Abs() > 2*time.Millisecond || st.Cause == "" {
			t.Errorf("after the restart: %+v, want open until %v", st, opened[u.URL])
		}
	}
}

// Four failures before a restart and one after it make five.
func TestRestartKeepsStreak(t *testing.T) {
	s := bustest.Start(t)
	var down atomic.Int32
	var calls atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		if down.Load() > 0 {
			w.WriteHeader(503)
			return
		}
		_, _ = fmt.Fprint(w, `{"n":1}`)
	}))
	t.Cleanup(srv.Close)
	c := oneSource(srv.URL, 300*time.Millisecond, time.Hour)
	src := c.Sources["host"]
	src.Driver, src.Polls = "http", map[string]config.Poll{"p": {Path: "x", Interval: 300 * time.Millisecond}}
	c.Sources["host"] = src
	w := watch(t, s)
	first := run(t, c, s.Config())
	w.event()
	down.Store(1)
	w.fresh("four failures", func(f *event.Freshness) bool { return f.ConsecutiveFailures == 4 })
	first.stop()
	before := first.Status().Sources[0].Upstreams[0]
	if before.State != event.Closed || before.Failures != 4 {
		t.Fatalf("before the restart: %+v", before)
	}
	n := calls.Load()
	w = watch(t, s)
	run(t, c, s.Config())
	b := w.until("open", func(m bus.Message) bool { return m.Breaker != nil }).Breaker
	if b.From != event.Closed || b.To != event.Open || b.Failures != 5 {
		t.Errorf("transition after the restart: %+v", b)
	}
	if have := calls.Load() - n; have != 1 {
		t.Errorf("%d calls after the restart, want 1", have)
	}
}

// A streak that another poll's success ended is ended for the next owner, too,
// although that poll's own record had nothing new to say.
func TestRestartKeepsEndOfStreak(t *testing.T) {
	s := bustest.Start(t)
	var mu sync.Mutex
	failing := map[string]bool{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if failing[r.URL.Path] {
			w.WriteHeader(503)
			return
		}
		_, _ = fmt.Fprint(w, `{"n":1}`)
	}))
	t.Cleanup(srv.Close)
	set := func(path string, f bool) { mu.Lock(); failing[path] = f; mu.Unlock() }
	c := config.Config{Sources: map[string]config.Source{"host": {
		Driver: "http", Upstreams: []string{srv.URL}, Breaker: config.Breaker{Failures: 3, OpenFor: time.Hour},
		Polls: map[string]config.Poll{
			"often": {Path: "often", Interval: 400 * time.Millisecond, MaxAge: time.Hour},
			"once":  {Path: "once", Interval: time.Hour},
		},
	}}}
	set("/once", true)
	w := watch(t, s)
	first := run(t, c, s.Config())
	told := func(n int) func(bus.Message) bool {
		return func(m bus.Message) bool {
			return m.Fresh != nil && m.Fresh.Poll == "host.once" && m.Fresh.Stale && len(m.Circuits) == 1 && m.Circuits[0].Failures == n
		}
	}
	w.until("the streak", told(1))
	w.until("its end", told(0))
	set("/often", true)
	w.fresh("two failures", func(f *event.Freshness) bool { return f.Poll == "host.often" && f.ConsecutiveFailures == 2 })
	set("/often", false)
	w.fresh("fresh again", func(f *event.Freshness) bool { return f.Poll == "host.often" && !f.Stale })
	first.stop()
	set("/once", false)
	second := run(t, c, s.Config())
	pollertest.Eventually(t, "the second owns it", func() bool { return second.sources.list()[0].Owned() })
	if have := second.Status().Sources[0].Upstreams[0]; have.Failures != 0 || have.State != event.Closed {
		t.Errorf("after the restart: %+v", have)
	}
}
