package poller

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

// gated is an upstream that answers, fails, or waits for what it is to do.
type gated struct {
	*httptest.Server
	mu   sync.Mutex
	mode string // "" is healthy, "503", or "wait"
	gate chan string
}

func newGated(t *testing.T) *gated {
	g := &gated{gate: make(chan string)}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		mode := g.mode
		g.mu.Unlock()
		if mode == "wait" {
			select {
			case mode = <-g.gate:
			case <-r.Context().Done():
				return
			}
		}
		if mode == "503" {
			w.WriteHeader(503)
			return
		}
		_, _ = fmt.Fprint(w, `{"n":1}`)
	}))
	t.Cleanup(g.Close)
	return g
}

func (g *gated) set(mode string) { g.mu.Lock(); g.mode = mode; g.mu.Unlock() }

// release has the call that waits answered, too, unless it has given up by now.
func (g *gated) release(mode string) {
	g.set(mode)
	select {
	case g.gate <- mode:
	case <-time.After(2 * time.Second):
	}
}

// states are those of the circuits of one source, and its own.
type states struct {
	circuits map[string]event.State
	source   event.State
}

// fourViews reads them from the metrics, the log, the breaker records and the
// freshness record, each by itself.
func fourViews(t *testing.T, p *running, w *watcher, upstreams []string) (views map[string]states) {
	for len(w.msgs) > 0 {
		m, err := w.names.Decode(<-w.msgs)
		if err != nil {
			t.Fatal(err)
		}
		w.seen = append(w.seen, m)
	}
	metrics, log := gather(t, p.reg), p.log.String()
	views = map[string]states{}
	for _, name := range []string{"metric", "counter", "log", "record"} {
		views[name] = states{circuits: map[string]event.State{}}
	}
	said := map[string]event.State{
		`msg="breaker opened"`: event.Open, `msg="probe failed, breaker stays open"`: event.Open,
		`msg="breaker lets one probe through"`: event.HalfOpen, `msg="breaker closed: the upstream answers again"`: event.Closed,
	}
	for _, u := range upstreams {
		for name := range views {
			views[name].circuits[u] = event.Closed
		}
		told := map[event.State]int{}
		for _, m := range w.seen {
			if b := m.Breaker; b != nil && b.Upstream == u {
				if b.From != views["record"].circuits[u] {
					t.Errorf("the record of %s goes from %s, it was %s", u, b.From, views["record"].circuits[u])
				}
				views["record"].circuits[u] = b.To
				told[b.To]++
			}
		}
		for state, n := range stateNumber {
			if strings.Contains(metrics, fmt.Sprintf("pollcast_poller_breaker_state{source=%q,upstream=%q} %v\n", "host", u, n)) {
				views["metric"].circuits[u] = state
			}
			if !strings.Contains(metrics, fmt.Sprintf("pollcast_poller_breaker_transitions_total{source=%q,to=%q,upstream=%q} %d\n", "host", state, u, told[state])) {
				views["counter"].circuits[u] = "another number of transitions than records"
			} else if views["counter"].circuits[u] == event.Closed {
				views["counter"].circuits[u] = views["record"].circuits[u]
			}
		}
		for line := range strings.Lines(log) {
			for text, state := range said {
				if strings.Contains(line, text) && strings.Contains(line, "upstream="+u+" ") || strings.Contains(line, text) && strings.HasSuffix(line, "upstream="+u+"\n") {
					views["log"].circuits[u] = state
				}
			}
		}
	}
	fresh := event.State("")
	for _, m := range w.seen {
		if m.Fresh != nil {
			fresh = m.Fresh.Breaker
		}
	}
	for name, v := range views { // the rule of the source's state
		v.source = event.Open
		for _, s := range v.circuits {
			if s == event.Closed || s == event.HalfOpen && v.source == event.Open {
				v.source = s
			}
			if s == event.Closed {
				break
			}
		}
		views[name] = v
	}
	views["freshness"] = states{source: fresh}
	return views
}

// Metrics, log, breaker records and freshness say the same at every step of the
// way through all states, with one upstream and with two.
func TestBreakerAgrees(t *testing.T) {
	for _, n := range []int{1, 2} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			s := bustest.Start(t)
			var ups []*gated
			var urls []string
			for range n {
				g := newGated(t)
				ups, urls = append(ups, g), append(urls, g.URL)
			}
			const interval = 2500 * time.Millisecond
			w := watch(t, s)
			p := run(t, config.Config{Sources: map[string]config.Source{"host": {
				Driver: "http", Upstreams: urls, Breaker: config.Breaker{Failures: 1, OpenFor: interval},
				Polls: map[string]config.Poll{"p": {Interval: interval, MaxAge: time.Hour}},
			}}}, s.Config())
			want := func(step string, source event.State, circuits ...event.State) {
				t.Helper()
				var wrong string
				agree := func() bool {
					wrong = ""
					for name, v := range fourViews(t, p, w, urls) {
						if v.source != source {
							wrong += fmt.Sprintf("; %s says the source is %s", name, v.source)
						}
						for i, u := range urls {
							if name != "freshness" && v.circuits[u] != circuits[i] {
								wrong += fmt.Sprintf("; %s says %s is %s", name, u, v.circuits[u])
							}
						}
					}
					return wrong == ""
				}
				for limit := time.Now().Add(pollertest.Patience); !agree(); time.Sleep(5 * time.Millisecond) {
					if time.Now().After(limit) {
						t.Fatalf("%s: want the source %s, circuits %s%s", step, source, circuits, wrong)
					}
				}
			}
			w.until("a first record", func(m bus.Message) bool { return m.Fresh != nil })
			const closed, half, open = event.Closed, event.HalfOpen, event.Open
			if n == 1 {
				want("healthy", closed, closed)
				ups[0].set("503")
				want("failed", open, open)
				ups[0].set("wait")
				want("probe is out", half, half)
				ups[0].gate <- "503"
				want("probe failed", open, open)
				want("next probe is out", half, half)
				ups[0].gate <- ""
				want("recovered", closed, closed)
				return
			}
			want("healthy", closed, closed, closed)
			ups[0].set("503")
			want("the first failed", closed, open, closed)
			ups[0].set("wait")
			want("its probe is out, the second answers", closed, half, closed)
			ups[1].set("503")
			ups[0].gate <- "503"
			want("both failed", open, open, open)
			ups[1].set("wait")
			ups[0].set("503")
			want("the second's probe is out", half, open, half)
			ups[1].release("")
			want("the second recovered", closed, open, closed)
			ups[0].set("")
			want("both recovered", closed, closed, closed)
		})
	}
}
