package poller

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

// startCluster runs three NATS servers, on which everything has three replicas.
func startCluster(t *testing.T) bus.Config {
	t.Helper()
	const nodes = 3
	urls, servers := []string{}, []*server.Server{}
	var routes []string
	for i := range nodes {
		o := &server.Options{
			ServerName: fmt.Sprint("n", i), Host: "127.0.0.1", Port: server.RANDOM_PORT,
			JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
			Cluster: server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: server.RANDOM_PORT},
			Routes:  server.RoutesFromStr(strings.Join(routes, ",")),
		}
		srv, err := server.NewServer(o)
		if err != nil {
			t.Fatal(err)
		}
		srv.Start()
		t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
		if !srv.ReadyForConnections(pollertest.Patience) {
			t.Fatal("a server does not start")
		}
		routes = append(routes, "nats://"+srv.ClusterAddr().String())
		urls, servers = append(urls, srv.ClientURL()), append(servers, srv)
	}
	pollertest.Eventually(t, "the cluster has a leader", func() bool {
		for _, srv := range servers {
			if srv.JetStreamIsLeader() && len(srv.JetStreamClusterPeers()) == nodes {
				return true
			}
		}
		return false
	})
	c := bus.DefaultConfig()
	c.URL, c.Replicas = strings.Join(urls, ","), nodes
	return c
}

// The stream's leader changes, again and again, on a cluster of three: every
// change of the value is still one event.
func TestLeaderChanges(t *testing.T) {
	c := startCluster(t)
	u := newRPC(t)
	p := run(t, oneSource(u.URL, 100*time.Millisecond, time.Hour), c)
	pollertest.Eventually(t, "the first value is stored", func() bool {
		polls := p.Status().Sources[0].Polls
		return len(polls) == 1 && polls[0].Version == 1
	})
	nc, err := nats.Connect(c.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	names, err := bus.NewNames("")
	if err != nil {
		t.Fatal(err)
	}
	const changes = 12
	for i := range changes {
		if i%3 == 1 {
			answer, err := nc.Request("$JS.API.STREAM.LEADER.STEPDOWN."+names.Stream(), nil, pollertest.Patience)
			if err != nil || !strings.Contains(string(answer.Data), `"success":true`) {
				t.Fatalf("step down: %v", err)
			}
		}
		u.change()
		want := uint64(i + 2)
		pollertest.Eventually(t, fmt.Sprintf("version %d is stored", want), func() bool {
			st := p.Status().Sources[0].Polls[0]
			return st.Version >= want && !st.Unpublished
		})
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), names.Stream())
	if err != nil {
		t.Fatal(err)
	}
	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var versions []uint64
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		raw, err := stream.GetMsg(t.Context(), seq)
		if err != nil {
			continue // superseded
		}
		d, err := names.Decode(&nats.Msg{Subject: raw.Subject, Header: raw.Header, Data: raw.Data})
		if err != nil {
			t.Fatal(err)
		}
		if d.Event != nil {
			versions = append(versions, d.Event.Version)
		}
	}
	for i, v := range versions {
		if v != uint64(i+1) {
			t.Fatalf("versions %v: a gap or a duplicate", versions)
		}
	}
	if len(versions) != changes+1 {
		t.Errorf("%d events for %d changes: %v", len(versions), changes, versions)
	}
}

// NATS comes back without its data while the upstream is down: the poller still
// has the last good value, and gives it to the new stream with its true age.
func TestStreamLostWhileDown(t *testing.T) {
	s, u := bustest.Start(t), newRPC(t)
	w := watch(t, s)
	c := oneSource(u.URL, 100*time.Millisecond, time.Hour)
	p := run(t, c, s.Config())
	first := w.event()
	u.set("503")
	f := w.fresh("open", func(f *event.Freshness) bool { return f.Breaker == event.Open })
	asOf := f.AsOf
	_, js, names := s.JetStream()
	if err := js.DeleteStream(t.Context(), names.Stream()); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteKeyValue(t.Context(), names.LeaseBucket()); err != nil {
		t.Fatal(err)
	}
	e := w.event()
	if string(e.Data) != string(first.Data) || e.Version != first.Version+1 || !e.AsOf.Equal(asOf) || !e.ChangedAt.Equal(first.ChangedAt) {
		t.Errorf("in the new stream: %+v, want as of %v", e, asOf)
	}
	f = w.fresh("its freshness", func(f *event.Freshness) bool { return true })
	if !f.Stale || f.Breaker != event.Open || !f.AsOf.Equal(asOf) {
		t.Errorf("freshness %+v", f)
	}
	// And the poller, too, is another one.
	p.stop()
	run(t, c, s.Config())
	f = w.fresh("of the next poller", func(next *event.Freshness) bool { return next.Fence > f.Fence })
	if !f.Stale || !f.AsOf.Equal(asOf) {
		t.Errorf("after a restart: %+v", f)
	}
}

// While a circuit is open the stream is deleted: the new one tells of it, to
// readers and to the next poller.
func TestStreamLostWhileOpen(t *testing.T) {
	s, u := bustest.Start(t), newRPC(t)
	u.set("503")
	w := watch(t, s)
	c := oneSource(u.URL, 100*time.Millisecond, time.Hour)
	first := run(t, c, s.Config())
	open := func(m bus.Message) bool { return m.Breaker != nil && m.Breaker.To == event.Open }
	b := w.until("open", open).Breaker
	w.fresh("stale", func(f *event.Freshness) bool { return f.Breaker == event.Open })
	_, js, names := s.JetStream()
	if err := js.DeleteStream(t.Context(), names.Stream()); err != nil {
		t.Fatal(err)
	}
	again := w.until("open, in the new stream", open)
	if have := again.Breaker; !have.At.Equal(b.At) || !have.NextProbeAt.Equal(b.NextProbeAt) || have.Cause != b.Cause || len(again.Circuits) != 1 {
		t.Errorf("have %s, want %+v", pollertest.Show(again), b)
	}
	w.fresh("stale", func(f *event.Freshness) bool { return f.Breaker == event.Open })
	first.stop()
	calls := u.count()
	second := run(t, c, s.Config())
	w.fresh("of the second", func(f *event.Freshness) bool { return f.Fence > again.Breaker.Fence && f.Breaker == event.Open })
	if st := second.Status().Sources[0].Upstreams[0]; st.State != event.Open || u.count() != calls {
		t.Errorf("the next poller: %+v, %d calls", st, u.count()-calls)
	}
}

// On a cluster, too, every tick's keys and the freshness behind them are stored
// before the next: a replicated stream takes one message at a time under the
// same expected sequence, and refuses those that come beside it.
func TestKeysOnCluster(t *testing.T) {
	const keys = 40
	var mu sync.Mutex
	n := 0
	u := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		n++
		var items []map[string]int
		for i := range keys {
			items = append(items, map[string]int{"id": i, "n": n})
		}
		_ = json.NewEncoder(w).Encode(items)
	}))
	t.Cleanup(u.Close)
	c := startCluster(t)
	nc, err := nats.Connect(c.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	names, err := bus.NewNames("")
	if err != nil {
		t.Fatal(err)
	}
	w := &watcher{t: t, names: names, msgs: make(chan *nats.Msg, 10_000)}
	if _, err := nc.ChanSubscribe(names.LiveAll(), w.msgs); err != nil {
		t.Fatal(err)
	}
	run(t, config.Config{Sources: map[string]config.Source{"s": {Driver: "http", Upstreams: []string{u.URL}, Polls: map[string]config.Poll{
		"d": {Interval: 2 * time.Second, Path: "/", Each: ".[]", Key: ".id"},
	}}}}, c)
	of := func(tick int) func(bus.Message) bool {
		return func(m bus.Message) bool {
			return m.Event != nil && strings.Contains(string(m.Event.Data), fmt.Sprintf(`"n":%d}`, tick))
		}
	}
	// The first may come right before the second.
	const from, to = 3, 5
	w.until("the third tick", of(from))
	for tick := from; tick <= to; tick++ {
		for n := range keys {
			if tick == from && n == 0 {
				continue
			}
			if w.event(); !of(tick)(w.seen[len(w.seen)-1]) {
				t.Fatalf("before all keys are of tick %d: %s", tick, pollertest.Show(w.seen[len(w.seen)-1]))
			}
		}
		w.fresh("the tick's own", func(f *event.Freshness) bool { return !f.Stale })
	}
}
