package poller

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

// A stream that is full drops the values that do not change. They are stored
// again, once, also by a poller that came after they were stored.
func TestDroppedValues(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("restart ", restart), func(t *testing.T) {
			t.Parallel()
			s := bustest.Start(t)
			var loud atomic.Bool
			var n atomic.Int64
			u := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.URL.Path == "/keys":
					_, _ = fmt.Fprint(w, `{"a":"A","b":"B"}`)
				case r.URL.Path == "/loud" && loud.Load():
					_, _ = fmt.Fprintf(w, `"%d%s"`, n.Add(1), strings.Repeat("x", 60<<10))
				default:
					_, _ = fmt.Fprint(w, `"quiet"`)
				}
			}))
			t.Cleanup(u.Close)
			settings := config.Config{Sources: map[string]config.Source{"s": {Driver: "http", Upstreams: []string{u.URL}, Polls: map[string]config.Poll{
				"quiet": {Interval: 100 * time.Millisecond, Path: "/quiet"}, "loud": {Interval: 100 * time.Millisecond, Path: "/loud"},
				"keys": {Interval: 100 * time.Millisecond, Path: "/keys", Each: "to_entries[]", Key: ".key"},
			}}}}
			b := s.Config()
			b.MaxBytes = 1 << 20
			nc, _, names := s.JetStreamOf(b)
			w := watchOn(t, nc, names)
			prepare := func(p *Poller) { p.droppedEvery = time.Millisecond }
			p := runPrepared(t, settings, b, &pollertest.LogLines{}, prepare)
			topics := []string{"s.quiet", "s.keys.a", "s.keys.b"}
			seen := map[string]bool{}
			w.until("all values", func(m bus.Message) bool {
				if m.Event != nil {
					seen[m.Event.Topic] = true
				}
				return len(seen) == 4
			})
			if restart {
				p.stop()
				p = runPrepared(t, settings, b, &pollertest.LogLines{}, prepare)
			}
			loud.Store(true)
			again := map[string]uint64{}
			w.until("the values again", func(m bus.Message) bool {
				if e := m.Event; e != nil && e.Topic != "s.loud" {
					again[e.Topic] = e.Version
				}
				return again["s.quiet"] == 2 && again["s.keys.a"] == 2 && again["s.keys.b"] == 2
			})
			loud.Store(false)
			for _, topic := range topics {
				pollertest.Eventually(t, topic+" is in the stream", func() bool {
					m, err := p.sources.publisher.Last(t.Context(), names.In(topic))
					return err == nil && m.Event != nil && m.Event.Version == 2
				})
			}
			if !strings.Contains(p.log.String(), "Raise nats.maxBytes") {
				t.Error("the log does not say it")
			}
		})
	}
}

// A walk whose last event a full stream has dropped goes on where it was, also
// with another poller.
func TestDroppedPlace(t *testing.T) {
	t.Parallel()
	s, c := bustest.Start(t), newChain(t, 5)
	var n atomic.Int64
	u := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, `"%d%s"`, n.Add(1), strings.Repeat("x", 60<<10))
	}))
	t.Cleanup(u.Close)
	settings := c.follow(100*time.Millisecond, ids)
	settings.Sources["loud"] = config.Source{Driver: "http", Upstreams: []string{u.URL}, Polls: map[string]config.Poll{"a": {Interval: 100 * time.Millisecond}}}
	b := s.Config()
	b.MaxBytes = 1 << 20
	nc, _, names := s.JetStreamOf(b)
	w, l := watchOnly(t, nc, names, names.Live("eth.>")), newLedger(t)
	p := run(t, settings, b)
	w.reaches(l, c)
	pollertest.Eventually(t, "the last position is dropped", func() bool {
		m, err := p.sources.publisher.Last(t.Context(), names.In("eth.blocks"))
		return err == nil && m.Event == nil
	})
	p.stop()
	c.grow(3)
	run(t, settings, b)
	w.reaches(l, c)
	l.wantChain("after the drop", c, 0)
	if len(l.turns) != 0 {
		t.Errorf("turns %+v", l.turns)
	}
}
