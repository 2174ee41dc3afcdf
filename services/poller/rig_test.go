package poller

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/pollertest"
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

func (u *rpc) change() { u.mu.Lock(); u.value++; u.mu.Unlock() }

func (u *rpc) count() int { u.mu.Lock(); defer u.mu.Unlock(); return len(u.calls) }

// watcher sees what everybody sees: the live subjects.
type watcher struct {
	t     testing.TB
	names bus.Names
	msgs  chan *nats.Msg
	seen  []bus.Message
}

func watch(t testing.TB, s *bustest.Server) *watcher {
	nc, _, names := s.JetStream()
	return watchOn(t, nc, names)
}

func watchOn(t testing.TB, nc *nats.Conn, names bus.Names) *watcher {
	return watchOnly(t, nc, names, names.LiveAll())
}

func watchOnly(t testing.TB, nc *nats.Conn, names bus.Names, subject string) *watcher {
	w := &watcher{t: t, names: names, msgs: make(chan *nats.Msg, 10_000)}
	if _, err := nc.ChanSubscribe(subject, w.msgs); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return w
}

// until waits for a message and returns it with all that came before it.
func (w *watcher) until(what string, ok func(bus.Message) bool) bus.Message {
	w.t.Helper()
	limit := time.After(pollertest.Patience)
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
				w.t.Logf("seen %d: %s", m.Seq, pollertest.Show(m))
			}
			w.t.Fatalf("no message that says: %s", what)
		}
	}
}

func (w *watcher) event() *event.Event {
	w.t.Helper()
	return w.until("an event", func(m bus.Message) bool { return m.Event != nil }).Event
}

func (w *watcher) fresh(what string, ok func(*event.Freshness) bool) *event.Freshness {
	w.t.Helper()
	return w.until(what, func(m bus.Message) bool { return m.Fresh != nil && ok(m.Fresh) }).Fresh
}

type running struct {
	*Poller
	log  *pollertest.LogLines
	reg  *prometheus.Registry
	stop func()
}

// run starts a poller that is stopped when the test ends, or earlier.
func run(t testing.TB, c config.Config, b bus.Config) *running {
	t.Helper()
	return runLogging(t, c, b, &pollertest.LogLines{})
}

func runLogging(t testing.TB, c config.Config, b bus.Config, log *pollertest.LogLines) *running {
	t.Helper()
	return runPrepared(t, c, b, log, func(*Poller) {})
}

func runPrepared(t testing.TB, c config.Config, b bus.Config, log *pollertest.LogLines, prepare func(*Poller)) *running {
	t.Helper()
	r := &running{log: log, reg: prometheus.NewRegistry()}
	p, err := New(t.Context(), Options{
		Config: c, NATS: b, Registerer: r.reg,
		Logger: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Poller = p
	prepare(p)
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
			case <-time.After(pollertest.Patience):
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

func oneSource(url string, interval, openFor time.Duration) config.Config {
	return config.Config{Sources: map[string]config.Source{"host": {
		Upstreams: []string{url}, Breaker: config.Breaker{Failures: 5, OpenFor: openFor},
		Polls: map[string]config.Poll{"system.status": {Interval: interval, Method: "system.status"}},
	}}}
}
