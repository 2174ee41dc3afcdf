package poller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/prometheus/client_golang/prometheus"
)

// rpc is an upstream whose answers a test decides. It answers with the number
// of changes so far.
type rpc struct {
	*httptest.Server
	mu    sync.Mutex
	mode  string // "" is healthy; otherwise "503", "html", "hang"
	value int
	calls []time.Time
}

func newRPC(t *testing.T) *rpc {
	u := &rpc{}
	u.Server = httptest.NewServer(u)
	t.Cleanup(u.Close)
	return u
}

func (u *rpc) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var q struct{ ID int }
	_ = json.NewDecoder(r.Body).Decode(&q)
	u.mu.Lock()
	mode, value := u.mode, u.value
	u.calls = append(u.calls, time.Now())
	u.mu.Unlock()
	switch mode {
	case "503":
		w.WriteHeader(503)
	case "html":
		_, _ = io.WriteString(w, "<html>")
	case "hang":
		<-r.Context().Done()
	default:
		_, _ = fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%d,"result":{"n":%d}}`, q.ID, value)
	}
}

func (u *rpc) set(mode string) { u.mu.Lock(); u.mode = mode; u.mu.Unlock() }
func (u *rpc) change()         { u.mu.Lock(); u.value++; u.mu.Unlock() }
func (u *rpc) count() int      { u.mu.Lock(); defer u.mu.Unlock(); return len(u.calls) }

// watcher sees what everybody sees: the live subjects.
type watcher struct {
	t     testing.TB
	names bus.Names
	msgs  chan *nats.Msg
	seen  []bus.Message
}

func watch(t testing.TB, s *bustest.Server) *watcher {
	nc, _, names := s.JetStream()
	w := &watcher{t: t, names: names, msgs: make(chan *nats.Msg, 10_000)}
	if _, err := nc.ChanSubscribe(names.LiveAll(), w.msgs); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return w
}

const patience = 15 * time.Second

// until waits for a message and returns it with all that came before it.
func (w *watcher) until(what string, ok func(bus.Message) bool) bus.Message {
	w.t.Helper()
	limit := time.After(patience)
	for {
		select {
		case m := <-w.msgs:
			d, err := w.names.Decode(m)
			if err != nil {
				w.t.Fatal(err)
			}
			w.seen = append(w.seen, d)
			if ok(d) {
				return d
			}
		case <-limit:
			for _, m := range w.seen[max(0, len(w.seen)-10):] {
				w.t.Logf("seen %d: %s", m.Seq, show(m))
			}
			w.t.Fatalf("no message that says: %s", what)
		}
	}
}

func show(m bus.Message) string {
	data, _ := json.Marshal(struct {
		E *event.Event     `json:",omitempty"`
		F *event.Freshness `json:",omitempty"`
		B *event.Breaker   `json:",omitempty"`
	}{m.Event, m.Fresh, m.Breaker})
	return string(data)
}

func (w *watcher) event() *event.Event {
	w.t.Helper()
	return w.until("an event", func(m bus.Message) bool { return m.Event != nil }).Event
}

func (w *watcher) fresh(what string, ok func(*event.Freshness) bool) *event.Freshness {
	w.t.Helper()
	return w.until(what, func(m bus.Message) bool { return m.Fresh != nil && ok(m.Fresh) }).Fresh
}

// logLines collects log lines.
type logLines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type running struct {
	*Poller
	log  *logLines
	reg  *prometheus.Registry
	stop func()
}

// run starts a poller that is stopped when the test ends, or earlier.
func run(t testing.TB, c Config, b bus.Config) *running {
	t.Helper()
	r := &running{log: &logLines{}, reg: prometheus.NewRegistry()}
	p, err := New(t.Context(), Options{
		Config: c, NATS: b, Registerer: r.reg,
		Logger: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Poller = p
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("run: %v", err)
				}
			case <-time.After(patience):
				t.Error("the poller does not stop")
			}
		})
	}
	t.Cleanup(func() {
		r.stop()
		if t.Failed() {
			t.Logf("log of poller %s:\n%s", p.owner, r.log)
		}
	})
	return r
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("never: %s", what)
		}
	}
}

func oneSource(url string, interval, openFor time.Duration) Config {
	return Config{Sources: map[string]Source{"host": {
		Upstreams: []string{url}, Breaker: Breaker{Failures: 5, OpenFor: openFor},
		Polls: map[string]Poll{"system.status": {Interval: interval, Method: "system.status"}},
	}}}
}

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
	if d := time.Since(e.AsOf); d < 0 || d > patience || e.ChangedAt.Nanosecond()%1e6 != 0 || e.AsOf.Location() != time.UTC {
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
			t.Errorf("an event without a change: %s", show(m))
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
			t.Errorf("the payload was sent again: %s", show(m))
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

func TestTwoPollers(t *testing.T) {
	s, u := bustest.Start(t), newRPC(t)
	b := s.Config()
	b.LeaseTime = time.Second
	c := oneSource(u.URL, 200*time.Millisecond, time.Hour)
	w := watch(t, s)
	x, y := run(t, c, b), run(t, c, b)
	e := w.event()
	time.Sleep(time.Second)
	if x.sources[0].owned() == y.sources[0].owned() {
		t.Fatalf("owned: %v and %v", x.sources[0].owned(), y.sources[0].owned())
	}
	owner, standby := x, y
	if y.sources[0].owned() {
		owner, standby = y, x
	}
	if err := standby.Ready(); err != nil {
		t.Errorf("the standby is not ready: %v", err)
	}
	if have := standby.Status().Sources[0]; have.Owner != owner.owner || have.Owned {
		t.Errorf("the standby says %+v", have)
	}

	// Cut off from NATS, the owner stops by its own clock, and the other starts.
	owner.nc.Load().Close()
	f := w.fresh("another fence", func(f *event.Freshness) bool { return f.Fence > e.Fence })
	if f.Stale && f.Reason != event.PollerSilent {
		t.Errorf("takeover: %+v", f)
	}
	eventually(t, "the first owner stops", func() bool { return !owner.sources[0].owned() })
	u.change()
	if e2 := w.event(); e2.Version != e.Version+1 || e2.Fence != f.Fence {
		t.Errorf("event of the new owner: %+v after %+v", e2, e)
	}
	calls := u.count()
	time.Sleep(time.Second)
	if n := u.count() - calls; n > 6 {
		t.Errorf("%d calls in a second, want 5", n)
	}

	// A clean stop hands over at once: long before the lease would end.
	third := run(t, c, b)
	eventually(t, "third stands by", func() bool { return third.Status().Sources[0].Owner == standby.owner })
	from := time.Now()
	standby.stop()
	eventually(t, "the third takes over", func() bool { return third.sources[0].owned() })
	if took := time.Since(from); took > 900*time.Millisecond {
		t.Errorf("handing over took %v", took)
	}
}

// What an owner sends after a newer one has spoken is refused, even while the
// value stands still.
func TestZombieIsRefused(t *testing.T) {
	s, u := bustest.Start(t), newRPC(t)
	w := watch(t, s)
	p := run(t, oneSource(u.URL, 100*time.Millisecond, time.Hour), s.Config())
	w.event()
	nc, js, names := s.JetStream()
	m, err := newMetrics(nil, new(state))
	if err != nil {
		t.Fatal(err)
	}
	pub := &publisher{nc: nc, js: js, names: names, metrics: m, keepDeleted: time.Hour, repair: func(context.Context) error { return nil }}
	polls, breaker, err := pub.readSource(t.Context(), "host")
	if err != nil {
		t.Fatal(err)
	}
	old := &tenure{fence: 0, start: time.Now()}
	old.renewed(old.start, time.Hour)
	var st stored
	st.learn(polls["host.system.status"], nil)
	seq := polls["host.system.status"].freshSeq
	w.fresh("a newer record", func(*event.Freshness) bool { return true })
	w.fresh("a newer record", func(*event.Freshness) bool { return true })
	late := job{
		topic: "host.system.status", known: st, tenure: old, slot: time.Now(),
		event: &event.Event{Topic: "host.system.status", Poll: "host.system.status", Data: []byte(`"late"`), AsOf: time.Now(), ChangedAt: time.Now()},
	}
	if _, err := pub.put(t.Context(), late); !errors.Is(err, errFenced) {
		t.Errorf("late event: %v, want %v", err, errFenced)
	}
	late.event, late.fresh = nil, &event.Freshness{Poll: late.topic, CheckedAt: time.Now()}
	if _, err := pub.put(t.Context(), late); !errors.Is(err, errFenced) {
		t.Errorf("late freshness: %v, want %v", err, errFenced)
	}
	old.ends.Store(0)
	if _, err := pub.put(t.Context(), late); !errors.Is(err, errExpired) {
		t.Errorf("after the lease: %v, want %v", err, errExpired)
	}
	if seq == 0 || breaker.Seq != 0 {
		t.Errorf("read back freshness at %d and breaker at %d", seq, breaker.Seq)
	}
	if !p.sources[0].owned() {
		t.Error("the owner gave up")
	}

	// The other way round: somebody with a newer lease has spoken. The owner
	// stops, and comes back with a still newer one.
	fence := p.sources[0].tenure.Load().fence
	for {
		last, err := pub.last(t.Context(), names.InFresh(late.topic))
		if err != nil {
			t.Fatal(err)
		}
		newer := &tenure{fence: fence + 1000, start: time.Now()}
		newer.renewed(newer.start, time.Hour)
		late.known, late.tenure = stored{guard: last.Seq}, newer
		late.fresh = &event.Freshness{Poll: late.topic, CheckedAt: time.Now(), Stale: true, Reason: event.Timeout}
		if _, err = pub.put(t.Context(), late); err == nil {
			break
		} else if !errors.Is(err, errAgain) {
			t.Fatal(err)
		}
	}
	w.fresh("the owner is back above", func(f *event.Freshness) bool { return f.Fence == fence+1001 && !f.Stale })
	if !strings.Contains(p.log.String(), "another poller owns the source by now") {
		t.Error("no log line about the loss")
	}
}

// Several ways in which a publish can have gone wrong end in one event per
// change, with versions that count by one.
func TestPublish(t *testing.T) {
	s := bustest.Start(t)
	nc, js, names := s.JetStream()
	m, err := newMetrics(nil, new(state))
	if err != nil {
		t.Fatal(err)
	}
	pub := &publisher{nc: nc, js: js, names: names, metrics: m, keepDeleted: time.Hour, repair: func(context.Context) error { return nil }}
	ten := &tenure{fence: 5, start: time.Now()}
	ten.renewed(ten.start, time.Hour)
	slot := time.Now()
	at := stamp(slot)
	newJob := func(value string, known stored) job {
		d, err := digestOf([]byte(value), nil)
		if err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Millisecond)
		return job{
			topic: "a.b", digest: d, slot: slot, known: known, tenure: ten,
			event: &event.Event{Topic: "a.b", Poll: "a.b", Data: []byte(value), AsOf: at, ChangedAt: at},
			fresh: &event.Freshness{Poll: "a.b", AsOf: at, CheckedAt: at, Breaker: event.Closed},
		}
	}
	st, err := pub.put(t.Context(), newJob("1", stored{}))
	if err != nil || st.version != 1 || !st.has || st.guard == 0 || st.fresh == nil {
		t.Fatalf("first: %+v, %v", st, err)
	}
	before := st

	// The acknowledgement of the event was lost: known is what was before it.
	st, err = pub.put(t.Context(), newJob("1", stored{held: held{unsure: true}}))
	if !errors.Is(err, errAgain) || st.version != 1 || !st.has || st.unsure || st.digest != before.digest || st.guard != before.guard {
		t.Errorf("after a lost acknowledgement: %+v, %v", st, err)
	}
	// The same slot again, by whoever does not know.
	st, err = pub.put(t.Context(), newJob("1", stored{guard: before.guard}))
	if !errors.Is(err, errAgain) || st.version != 1 || !st.has {
		t.Errorf("same slot, same value: %+v, %v", st, err)
	}
	// The same slot with another value.
	st, err = pub.put(t.Context(), newJob("2", before))
	if !errors.Is(err, errSlotTaken) || st.version != 1 {
		t.Errorf("same slot, other value: %+v, %v", st, err)
	}
	slot = slot.Add(time.Second)
	if st, err = pub.put(t.Context(), newJob("2", st)); err != nil || st.version != 2 {
		t.Errorf("next slot: %+v, %v", st, err)
	}
	// Somebody of our own fence has moved on.
	slot = slot.Add(time.Second)
	st, err = pub.put(t.Context(), newJob("3", before))
	if !errors.Is(err, errAgain) || st.version != 2 || st.guard == before.guard {
		t.Errorf("behind: %+v, %v", st, err)
	}
	if st, err = pub.put(t.Context(), newJob("3", st)); err != nil || st.version != 3 {
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
	st, err = pub.put(t.Context(), newJob("3", st))
	if !errors.Is(err, errAgain) || st.version != 3 || st.has || st.guard != 0 {
		t.Errorf("a new stream: %+v, %v", st, err)
	}
	if st, err = pub.put(t.Context(), newJob("3", st)); err != nil || st.version != 4 {
		t.Errorf("in the new stream: %+v, %v", st, err)
	}

	seq, err := pub.putBreaker(t.Context(), &event.Breaker{Source: "a", At: at}, 0, ten)
	if err != nil || seq == 0 {
		t.Fatalf("breaker: %d, %v", seq, err)
	}
	if again, err := pub.putBreaker(t.Context(), &event.Breaker{Source: "a", At: at.Add(1)}, 0, ten); !errors.Is(err, errAgain) || again != seq {
		t.Errorf("breaker with an old sequence: %d, %v; want %d", again, err, seq)
	}
	zombie := &tenure{fence: 4, start: time.Now()}
	zombie.renewed(zombie.start, time.Hour)
	if _, err := pub.putBreaker(t.Context(), &event.Breaker{Source: "a", At: at.Add(2)}, 0, zombie); !errors.Is(err, errFenced) {
		t.Errorf("breaker of an old owner: %v", err)
	}
}

// NATS may come last, go away for longer than a lease, and lose its memory.
func TestNATSComesAndGoes(t *testing.T) {
	s, u := bustest.Start(t), newRPC(t)
	b := s.Config()
	b.LeaseTime = 3 * time.Second
	s.Stop()
	p := run(t, oneSource(u.URL, 100*time.Millisecond, time.Hour), b)
	eventually(t, "not ready is said", func() bool { return p.Ready() != nil && p.nc.Load() != nil })
	if u.count() != 0 {
		t.Error("polls without a lease")
	}
	s.Restart()
	w := watch(t, s)
	eventually(t, "ready", func() bool { return p.Ready() == nil })
	w.event()

	// A short absence, after which the bucket is empty, ends no lease.
	before := p.sources[0].tenure.Load()
	s.Stop()
	u.change()
	calls := u.count()
	eventually(t, "polling goes on", func() bool { return u.count() > calls+2 })
	s.Restart()
	w = watch(t, s)
	e := w.event()
	if string(e.Data) != `{"n":1}` || e.Version != 2 || e.Fence != before.fence {
		t.Errorf("event after a short absence: %+v", e)
	}
	eventually(t, "the lease is back", func() bool { return before.valid() && p.sources[0].tenure.Load() == before })

	s.Stop()
	eventually(t, "it is said", func() bool { return strings.Contains(p.log.String(), "lost NATS") })
	calls = u.count()
	eventually(t, "polling goes on under the lease", func() bool { return u.count() > calls+3 })
	u.change()
	eventually(t, "the lease ends", func() bool { return !p.sources[0].owned() })
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
	eventually(t, "owned", func() bool { return p.sources[0].owned() })
}

func TestStopIsClean(t *testing.T) {
	s, u := bustest.Start(t), newRPC(t)
	u.set("hang")
	c := oneSource(u.URL, 10*time.Second, time.Hour)
	p := run(t, c, s.Config())
	eventually(t, "a call is under way", func() bool { return u.count() > 0 })
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
	p := run(t, Config{Sources: map[string]Source{"aria2": {
		Upstreams: []string{srv.URL}, Headers: map[string]config.Secret{"authorization": config.NewSecret("Bearer s3cr3tB")},
		Polls: map[string]Poll{"stat": {Interval: 100 * time.Millisecond, Method: "aria2.getGlobalStat", Params: []any{"token:s3cr3tA"}}},
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
		all += show(m)
	}
	if strings.Contains(all, "s3cr3t") {
		t.Errorf("a secret shows:\n%s", all)
	}
}
