package poller

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

// An error of NATS that the client library does not know costs a poller neither
// its sources nor its connection.
func TestAnErrorOfNATSStopsNoSource(t *testing.T) {
	t.Parallel()
	s, u := bustest.Start(t), newRPC(t)
	w := watch(t, s)
	proxy := s.NewProxy()
	p := run(t, oneSource(u.URL, 100*time.Millisecond, time.Hour), proxy.Config())
	first := w.event()
	for version := uint64(2); version < 4; version++ {
		before := p.link.conn.Load().NATS()
		if proxy.Inject("-ERR 'Whatever Is Wrong'") == 0 {
			t.Fatal("the poller is not connected")
		}
		pollertest.Eventually(t, "another connection", func() bool { return p.link.conn.Load().NATS() != before && p.Ready() == nil })
		u.change()
		if e := w.event(); e.Version != version || e.Fence != first.Fence {
			t.Errorf("version %d under fence %d, want %d under %d", e.Version, e.Fence, version, first.Fence)
		}
	}
	if log := p.log.String(); !strings.Contains(log, "Whatever Is Wrong") || strings.Contains(log, "lease lost") {
		t.Error("NATS's words are not logged, or the lease was lost")
	}
	lease, err := p.link.leases.Get(t.Context(), "host") // the bucket moves along
	if err != nil || !strings.Contains(string(lease.Value()), p.owner) {
		t.Errorf("lease: %v", err)
	}
}

// A max_payload that a reload of NATS lowers makes only those values stale that are
// too long now. One that it raises is used, and nothing needs a restart.
func TestMaxPayloadIsReloaded(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t)
	var size atomic.Int64
	u := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, fmt.Sprintf(`{"n":%d,"s":"%s"}`, size.Load(), strings.Repeat("a", int(size.Load()))))
	}))
	t.Cleanup(u.Close)
	small := newRPC(t)
	c := oneSource(small.URL, 100*time.Millisecond, time.Hour)
	c.Sources["big"] = config.Source{
		Driver: "http", Upstreams: []string{u.URL}, Breaker: config.Breaker{Failures: 100, OpenFor: time.Second},
		Polls: map[string]config.Poll{"p": {Interval: 100 * time.Millisecond}},
	}
	w := watch(t, s)
	size.Store(150_000)
	p := run(t, c, s.Config())
	stored := func(want int64) func(bus.Message) bool {
		return func(m bus.Message) bool {
			return m.Event != nil && m.Event.Topic == "big.p" && strings.HasPrefix(string(m.Event.Data), fmt.Sprintf(`{"n":%d,`, want))
		}
	}
	w.until("the long value", stored(150_000))

	s.Reload(func(o *server.Options) { o.MaxPayload = 64 << 10 })
	size.Store(150_001)
	w.until("why the value is stale", func(m bus.Message) bool {
		return m.Fresh != nil && m.Fresh.Stale && strings.Contains(m.Fresh.Detail, "NATS takes 57344 (max_payload)")
	})
	small.change()
	w.until("the other source's value", func(m bus.Message) bool {
		return m.Event != nil && m.Event.Poll == "host.system.status" && m.Event.Version > 1
	})
	size.Store(1000)
	w.until("a value that is short enough", stored(1000))

	s.Reload(func(o *server.Options) { o.MaxPayload = 1 << 20 })
	size.Store(150_002)
	w.until("a value that is short enough by the new limit", stored(150_002))
	if strings.Contains(p.log.String(), "lease lost") {
		t.Error("the poller has lost a lease")
	}
}
