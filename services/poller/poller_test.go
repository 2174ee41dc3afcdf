package poller

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	conf "github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/pollertest"
	"github.com/prometheus/client_golang/prometheus"
)

// The whole walk over real HTTP and a real stream: events, five failures, open,
// a failed probe, a probe that closes.
func TestWalk(t *testing.T) {
	s, u := bustest.Start(t), newRPC(t)
	w := watch(t, s)
	p := run(t, oneSource(u.URL+"/v3/0123456789abcdef", 100*time.Millisecond, 700*time.Millisecond), s.Config())

	e := w.event()
	if e.Topic != "host.system.status" || e.Poll != e.Topic || string(e.Data) != `{"n":0}` || e.Version != 1 || e.Fence == 0 || e.Upstream != u.URL {
		t.Errorf("first event: %+v", e)
	}
	if d := time.Since(e.AsOf); d < 0 || d > pollertest.Patience || e.ChangedAt.Nanosecond()%1e6 != 0 || e.AsOf.Location() != time.UTC {
		t.Errorf("times of the first event: %+v", e)
	}
	f := w.fresh("fresh", func(f *event.Freshness) bool { return true })
	if f.Stale || f.Reason != "" || f.Breaker != event.Closed || f.IntervalMs != 100 || f.MaxAgeMs != 300 || f.AsOf.Before(e.AsOf) {
		t.Errorf("first freshness: %+v", f)
	}
	u.change()
	if e := w.event(); string(e.Data) != `{"n":1}` || e.Version != 2 {
		t.Errorf("second event: %+v", e)
	}

	u.set("503")
	last := w.fresh("first failure", func(f *event.Freshness) bool { return f.Stale })
	if last.Reason != event.UpstreamError || last.Detail != "HTTP 503 Service Unavailable" || last.ConsecutiveFailures != 1 || last.Breaker != event.Closed {
		t.Errorf("first failure: %+v", last)
	}
	asOf := last.AsOf
	open := w.until("breaker open", func(m bus.Message) bool { return m.Breaker != nil }).Breaker
	if open.Source != "host" || open.Upstream != u.URL || open.From != event.Closed || open.To != event.Open || open.Failures != 5 ||
		open.Cause != "HTTP 503 Service Unavailable" || open.Fence != e.Fence {
		t.Errorf("breaker opened: %+v", open)
	}
	calls := u.count()
	f = w.fresh("not asked", func(f *event.Freshness) bool { return f.Reason == event.BreakerOpen })
	if f.Breaker != event.Open || f.ConsecutiveFailures != 5 || !f.NextProbeAt.Equal(open.NextProbeAt) || !f.AsOf.Equal(asOf) || f.Detail == "" {
		t.Errorf("while open: %+v, next probe %v, as of %v", f, open.NextProbeAt, asOf)
	}
	half := w.until("probe", func(m bus.Message) bool { return m.Breaker != nil }).Breaker
	again := w.until("probe failed", func(m bus.Message) bool { return m.Breaker != nil }).Breaker
	if half.To != event.HalfOpen || again.To != event.Open || again.Failures != 6 {
		t.Errorf("first probe: %+v, %+v", half, again)
	}
	if n := u.count() - calls; n != 1 {
		t.Errorf("%d calls in the first period, want the probe", n)
	}
	u.set("")
	f = w.fresh("fresh again", func(f *event.Freshness) bool { return !f.Stale })
	if n := u.count() - calls; n < 2 || n > 4 {
		t.Errorf("%d calls until recovery, want two probes and what came since", n)
	}
	if f.Breaker != event.Closed || f.ConsecutiveFailures != 0 || !f.NextProbeAt.IsZero() || f.Detail != "" || !f.AsOf.After(asOf) {
		t.Errorf("recovered: %+v", f)
	}
	for _, m := range w.seen {
		if m.Event != nil && m.Event.Version > 2 {
			t.Errorf("an event without a change: %s", pollertest.Show(m))
		}
	}

	if err := p.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	status, _ := json.Marshal(p.Status())
	metrics := gather(t, p.reg)
	for _, want := range []string{
		`pollcast_poller_polls_total{outcome="upstream_error",poll="host.system.status"} 6`,
		`pollcast_poller_stale{poll="host.system.status"} 0`,
		`pollcast_poller_breaker_state{source="host",upstream="` + u.URL + `"} 0`,
		`pollcast_poller_breaker_transitions_total{source="host",to="half_open",upstream="` + u.URL + `"} 2`,
		`pollcast_poller_lease_owned{source="host"} 1`,
		`pollcast_poller_published_total{kind="event"} 2`,
		`pollcast_poller_age_seconds{poll="host.system.status"}`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	p.stop()
	for name, text := range map[string]string{"log": p.log.String(), "status": string(status), "metrics": metrics} {
		if strings.Contains(text, "0123456789abcdef") {
			t.Errorf("the key in the URL is in the %s:\n%s", name, text)
		}
	}
	for _, want := range []string{"value is stale", "breaker opened", "probe failed", "breaker closed", "value is fresh again", "lease acquired", "lease released"} {
		if n := strings.Count(p.log.String(), want); n != 1 {
			t.Errorf("%d log lines say %q, want 1", n, want)
		}
	}
	if strings.Contains(metrics, `outcome="upstream_error",poll="host.system.status"} 7`) {
		t.Error("more failures than calls")
	}
}

func gather(t testing.TB, reg *prometheus.Registry) string {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := []string{}
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			value := m.GetCounter().GetValue() + m.GetGauge().GetValue()
			fmt.Fprintf(&b, "%s{%s} %v\n", f.GetName(), strings.Join(labels, ","), value)
		}
	}
	return b.String()
}

// A poller that starts while the upstream is down serves the last good value
// with its true age, and does not ask before the probe is due.
func TestRestartWhileDown(t *testing.T) {
	s, u := bustest.Start(t), newRPC(t)
	c := oneSource(u.URL, 100*time.Millisecond, time.Hour)
	w := watch(t, s)
	first := run(t, c, s.Config())
	e := w.event()
	w.fresh("renewals", func(f *event.Freshness) bool { return f.AsOf.Sub(e.AsOf) > 300*time.Millisecond })
	u.set("hang")
	f := w.fresh("timeout", func(f *event.Freshness) bool { return f.Stale })
	if f.Reason != event.Timeout {
		t.Errorf("hanging upstream: %+v", f)
	}
	asOf := f.AsOf
	w.fresh("open", func(f *event.Freshness) bool { return f.Breaker == event.Open })
	first.stop()
	calls := u.count()
	s.Stop()
	s.Restart()

	w = watch(t, s)
	second := run(t, c, s.Config())
	f = w.fresh("second poller speaks", func(f *event.Freshness) bool { return true })
	if !f.Stale || !f.AsOf.Equal(asOf) || f.Breaker != event.Open || f.Fence <= e.Fence || f.Reason == "" {
		t.Errorf("after the restart: %+v, want as of %v", f, asOf)
	}
	f = w.fresh("a tick", func(f *event.Freshness) bool { return f.Reason == event.BreakerOpen })
	if f.ConsecutiveFailures != 5 || !f.AsOf.Equal(asOf) || time.Until(f.NextProbeAt) < 50*time.Minute {
		t.Errorf("after the restart: %+v", f)
	}
	second.stop()
	if n := u.count() - calls; n != 0 {
		t.Errorf("%d calls while the breaker was open", n)
	}
	for _, m := range w.seen {
		if m.Event != nil {
			t.Errorf("the payload was sent again: %s", pollertest.Show(m))
		}
	}

	// Healthy again, with another URL: its circuit has no past.
	healthy := newRPC(t)
	healthy.change()
	run(t, oneSource(healthy.URL, 100*time.Millisecond, time.Hour), s.Config())
	e2 := w.event()
	if e2.Version != e.Version+1 || string(e2.Data) != `{"n":1}` {
		t.Errorf("event after the restart: %+v", e2)
	}
	w.fresh("fresh", func(f *event.Freshness) bool { return !f.Stale && f.Breaker == event.Closed })
}

// What nobody polled for longer than maxAge is not called fresh by a new
// poller before the upstream has confirmed it.
func TestRestartAfterSilence(t *testing.T) {
	s, u := bustest.Start(t), newRPC(t)
	c := oneSource(u.URL, 100*time.Millisecond, time.Hour)
	w := watch(t, s)
	first := run(t, c, s.Config())
	w.event()
	last := w.fresh("fresh", func(f *event.Freshness) bool { return !f.Stale })
	first.stop()
	for len(w.msgs) > 0 {
		if m, err := w.names.Decode(<-w.msgs); err == nil && m.Fresh != nil {
			last = m.Fresh
		}
	}
	time.Sleep(350 * time.Millisecond) // longer than maxAge
	run(t, c, s.Config())
	f := w.fresh("takeover", func(f *event.Freshness) bool { return f.Fence > last.Fence })
	if !f.Stale || f.Reason != event.PollerSilent || f.AsOf.Before(last.AsOf) {
		t.Errorf("first word after the silence: %+v", f)
	}
	w.fresh("fresh", func(f *event.Freshness) bool { return !f.Stale })
}

// NATS may come last, go away for longer than a lease, and lose its memory.
func TestNATSComesAndGoes(t *testing.T) {
	s, u := bustest.Start(t), newRPC(t)
	b := s.Config()
	b.LeaseTime = 3 * time.Second
	s.Stop()
	p := run(t, oneSource(u.URL, 100*time.Millisecond, time.Hour), b)
	pollertest.Eventually(t, "not ready is said", func() bool { return p.Ready() != nil && p.link.conn.Load() != nil })
	if u.count() != 0 {
		t.Error("polls without a lease")
	}
	s.Restart()
	w := watch(t, s)
	pollertest.Eventually(t, "ready", func() bool { return p.Ready() == nil })
	w.event()

	// A short absence, after which the bucket is empty, ends no lease.
	before := p.sources.list()[0].tenure.Load()
	s.Stop()
	u.change()
	calls := u.count()
	pollertest.Eventually(t, "polling goes on", func() bool { return u.count() > calls+2 })
	s.Restart()
	w = watch(t, s)
	e := w.event()
	if string(e.Data) != `{"n":1}` || e.Version != 2 || e.Fence != before.Fence {
		t.Errorf("event after a short absence: %+v", e)
	}
	pollertest.Eventually(t, "the lease is back", func() bool { return before.Valid() && p.sources.list()[0].tenure.Load() == before })

	s.Stop()
	pollertest.Eventually(t, "it is said", func() bool { return strings.Contains(p.log.String(), "lost NATS") })
	calls = u.count()
	pollertest.Eventually(t, "polling goes on under the lease", func() bool { return u.count() > calls+3 })
	u.change()
	pollertest.Eventually(t, "the lease ends", func() bool { return !p.sources.list()[0].Owned() })
	u.set("503") // what was seen before must not be lost
	s.Restart()
	w = watch(t, s)
	e2 := w.event()
	if e2.Version != e.Version+1 || string(e2.Data) != `{"n":2}` || e2.Fence <= e.Fence {
		t.Errorf("event when NATS is back: %+v, before %+v", e2, e)
	}
	w.fresh("stale", func(f *event.Freshness) bool { return f.Stale && f.Reason == event.UpstreamError })
	u.set("")
	w.fresh("fresh", func(f *event.Freshness) bool { return !f.Stale })

	// Stream and bucket vanish under a running poller.
	_, js, names := s.JetStream()
	if err := js.DeleteStream(t.Context(), names.Stream()); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteKeyValue(t.Context(), names.LeaseBucket()); err != nil {
		t.Fatal(err)
	}
	if e3 := w.event(); e3.Version != e2.Version+1 || string(e3.Data) != `{"n":2}` {
		t.Errorf("event in the new stream: %+v", e3)
	}
	w.fresh("fresh", func(f *event.Freshness) bool { return !f.Stale })
	pollertest.Eventually(t, "owned", func() bool { return p.sources.list()[0].Owned() })
}

func TestStopIsClean(t *testing.T) {
	s, u := bustest.Start(t), newRPC(t)
	u.set("hang")
	c := oneSource(u.URL, 10*time.Second, time.Hour)
	p := run(t, c, s.Config())
	pollertest.Eventually(t, "a call is under way", func() bool { return u.count() > 0 })
	from := time.Now()
	p.stop()
	if took := time.Since(from); took > grace+2*time.Second {
		t.Errorf("stopping took %v", took)
	}
	if err := p.Run(t.Context()); !errors.Is(err, ErrRan) {
		t.Errorf("second run: %v", err)
	}
}

func TestSecretsInConfig(t *testing.T) {
	s := bustest.Start(t)
	var auth atomic.Value
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		auth.Store(r.Header.Get("Authorization"))
		var q struct {
			ID     int
			Params []string
		}
		_ = json.NewDecoder(r.Body).Decode(&q)
		_, _ = fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%d,"error":{"code":1,"message":"no entry for %s, %s"}}`, q.ID, q.Params[0], r.Header.Get("Authorization"))
	}))
	t.Cleanup(srv.Close)
	w := watch(t, s)
	p := run(t, config.Config{Sources: map[string]config.Source{"aria2": {
		Upstreams: []string{srv.URL}, Headers: map[string]conf.Secret{"authorization": conf.NewSecret("Bearer s3cr3tB")},
		Polls: map[string]config.Poll{"stat": {Interval: 100 * time.Millisecond, Method: "aria2.getGlobalStat", Params: []any{"token:s3cr3tA"}}},
	}}}, s.Config())
	f := w.fresh("stale", func(f *event.Freshness) bool { return f.Stale })
	w.until("open", func(m bus.Message) bool { return m.Breaker != nil })
	p.stop()
	if auth.Load() != "Bearer s3cr3tB" {
		t.Errorf("header sent: %v", auth.Load())
	}
	if f.Detail != "JSON-RPC error 1: no entry for [redacted], [redacted]" {
		t.Errorf("detail %q", f.Detail)
	}
	status, _ := json.Marshal(p.Status())
	all := p.log.String() + string(status) + gather(t, p.reg)
	for _, m := range w.seen {
		all += pollertest.Show(m)
	}
	if strings.Contains(all, "s3cr3t") {
		t.Errorf("a secret shows:\n%s", all)
	}
}
