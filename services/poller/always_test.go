package poller

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

// Where every reading is an event, none is said twice: neither one that is stored
// and whose acknowledgement was lost, nor the last one before a reload.
func TestAlwaysOnce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name        string
		keyed, lost bool
	}{{"lost", false, true}, {"lost of a key", true, true}, {"reload", false, false}, {"reload with keys", true, false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := bustest.Start(t)
			way := newLine(t, s)
			u := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, `{"n":1}`) }))
			t.Cleanup(u.Close)
			p, topic := config.Poll{Interval: 2 * time.Second, Timeout: time.Second, MaxAge: 10 * time.Minute, Emit: config.EmitAlways}, "s.p"
			if c.keyed {
				p.Each, p.Key, topic = "to_entries[]", ".key", "s.p.n"
			}
			w := watch(t, s)
			b := s.Config()
			b.URL = "nats://" + way.ln.Addr().String()
			config := func() config.Config {
				return config.Config{Sources: map[string]config.Source{"s": {Driver: "http", Upstreams: []string{u.URL}, Polls: map[string]config.Poll{"p": p}}}}
			}
			poller := runPrepared(t, config(), b, &pollertest.LogLines{}, func(p *Poller) { p.publishTimeout = 200 * time.Millisecond })
			first := w.event()
			w.fresh("confirmed", func(f *event.Freshness) bool { return !f.Stale })
			later := func(than *event.Event) *event.Event {
				return w.until("a later reading", func(m bus.Message) bool { return m.Event != nil && m.Event.AsOf.After(than.AsOf) }).Event
			}
			// The value's first event is a case of its own.
			second := later(first)
			if c.lost {
				_, _, names := s.JetStream()
				way.lose(names.In(topic), func() {})
				way.deliver()
			} else {
				p.Timeout = 900 * time.Millisecond
				if _, err := poller.Reload(t.Context(), config()); err != nil {
					t.Fatal(err)
				}
			}
			later(later(second))
			seen := map[time.Time]uint64{}
			for _, m := range w.seen {
				if e := m.Event; e != nil {
					if seen[e.AsOf] != 0 {
						t.Errorf("versions %d and %d are the same reading", seen[e.AsOf], e.Version)
					}
					seen[e.AsOf] = e.Version
				}
			}
		})
	}
}
