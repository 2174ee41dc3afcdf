package poller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

// Two real upstreams: the first dies, the second answers in the same tick, the
// first comes back. No record ever says stale, and each event says who answered.
func TestFailOverForReal(t *testing.T) {
	s, one, two := bustest.Start(t), newRPC(t), newRPC(t)
	w := watch(t, s)
	c := oneSource(one.URL, 200*time.Millisecond, time.Second)
	src := c.Sources["host"]
	src.Upstreams = append(src.Upstreams, two.URL)
	src.Polls["system.status"] = config.Poll{Interval: 200 * time.Millisecond, MaxAge: 10 * time.Second, Method: "system.status", Emit: config.EmitAlways}
	c.Sources["host"] = src
	p := run(t, c, s.Config())
	if e := w.event(); e.Upstream != one.URL {
		t.Errorf("first event: %+v", e)
	}
	if n := two.count(); n != 0 {
		t.Errorf("%d calls to the second, which nobody needs", n)
	}
	one.set("503")
	from := func(u *rpc) func(bus.Message) bool {
		return func(m bus.Message) bool { return m.Event != nil && m.Event.Upstream == u.URL }
	}
	w.until("an event of the second", from(two))
	if b := w.until("breaker open", func(m bus.Message) bool { return m.Breaker != nil }).Breaker; b.Upstream != one.URL || b.To != event.Open || b.Failures != 5 {
		t.Errorf("breaker: %+v", b)
	}
	calls := one.count()
	for range 3 {
		w.event()
	}
	if n := one.count() - calls; n > 1 { // the probe
		t.Errorf("%d calls to the first while its circuit is open", n)
	}
	one.set("")
	w.until("an event of the first", from(one))
	w.until("another", from(one))
	calls = two.count()
	for range 3 {
		w.event()
	}
	if n := two.count() - calls; n != 0 {
		t.Errorf("%d calls to the second after the first is back", n)
	}
	p.stop()
	slots := map[time.Time]bool{}
	for i, m := range w.seen {
		if m.Fresh != nil && m.Fresh.Stale && !m.Fresh.AsOf.IsZero() { // the first one says that there is no value
			t.Errorf("a record says stale: %s", pollertest.Show(m))
		}
		if m.Event != nil && slots[m.Event.AsOf] {
			t.Errorf("event %d was there before: %s", i, pollertest.Show(m))
		}
		if m.Event != nil {
			slots[m.Event.AsOf] = true
		}
	}
	metrics := gather(t, p.reg)
	for _, want := range []string{
		fmt.Sprintf(`pollcast_poller_calls_total{kind="failover",source="host",upstream=%q} 5`, two.URL),
		fmt.Sprintf(`pollcast_poller_calls_total{kind="retry",source="host",upstream=%q} 0`, one.URL),
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s:\n%s", want, metrics)
		}
	}
}

// Retries and a hedge, counted by the upstreams themselves.
func TestCallsForReal(t *testing.T) {
	s, one, two := bustest.Start(t), newRPC(t), newRPC(t)
	w := watch(t, s)
	one.set("503")
	c := oneSource(one.URL, 500*time.Millisecond, time.Hour)
	src := c.Sources["host"]
	src.Retries = 2
	c.Sources["host"] = src
	p := run(t, c, s.Config())
	w.until("open", func(m bus.Message) bool {
		return m.Breaker != nil && m.Breaker.To == event.Open && m.Breaker.Failures == 5
	})
	if n := one.count(); n != 15 {
		t.Errorf("%d calls in 5 ticks with 2 retries, want 15", n)
	}
	p.stop()

	s = bustest.Start(t)
	w = watch(t, s)
	one.set("hang")
	src.Retries, src.Hedge, src.Upstreams = 0, 20*time.Millisecond, []string{one.URL, two.URL}
	c.Sources["host"] = src
	calls := one.count()
	run(t, c, s.Config())
	for range 7 {
		n := two.count()
		w.fresh("confirmed", func(f *event.Freshness) bool { return !f.Stale })
		pollertest.Eventually(t, "another tick", func() bool { return two.count() > n })
	}
	if n := one.count() - calls; n < 7 {
		t.Errorf("%d calls to the first, want one a tick", n)
	}
	for _, m := range w.seen {
		if m.Breaker != nil || m.Fresh != nil && m.Fresh.Stale && !m.Fresh.AsOf.IsZero() || m.Event != nil && m.Event.Upstream != two.URL {
			t.Errorf("unexpected: %s", pollertest.Show(m))
		}
	}
}
