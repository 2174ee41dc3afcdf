package gateway

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/pkg/throttle"
	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/conn"
	"github.com/pollcast/pollcast/services/gateway/frame"
	"github.com/pollcast/pollcast/services/gateway/hub"
	"github.com/pollcast/pollcast/services/gateway/memory"
)

// historyBytes bounds the hub's history, beside an eighth of the memory budget.
// Older events are read back from the stream.
const historyBytes = 64 << 20

// A server holds the connections of one gateway and what runs for them. It
// needs no NATS: the hub is fed from outside.
type server struct {
	cfg       Config
	name      string
	hub       *hub.Hub
	budget    *memory.Budget
	evictor   evictor
	gate      *gate
	sockets   sockets
	metrics   *metrics
	log       *slog.Logger
	host      conn.Host
	writers   []*conn.Writer
	past      replayer      // nil: nothing beyond the hub's history
	unreadLog throttle.Gate // of lines about resumes for which the stream could not be read back

	readbacks *readbacks
	conns     registry
	nextID    atomic.Uint64
	drained   atomic.Bool // no new connections
}

func newServer(cfg Config, name string, writers int, m *metrics, log *slog.Logger) *server {
	s := &server{cfg: cfg, name: name, metrics: m, log: log, budget: memory.New(int64(cfg.memory())), gate: newGate(cfg.AcceptRate), readbacks: newReadbacks()}
	m.memoryBudget.Set(float64(s.budget.Limit()))
	for i := range max(1, writers) {
		s.writers = append(s.writers, conn.NewWriter(i, &s.host))
	}
	s.hub = hub.New(hub.Options{
		Encoder: frame.Encoder{}, Budget: s.budget, Metrics: m.hub(), Log: log,
		MaxTopics: cfg.MaxStreamTopics, History: cfg.History, HistoryBytes: int(min(historyBytes, s.budget.Limit()/8)),
		Groups: s.groups, OnShort: s.makeRoom,
		OnReset: func() {
			s.conns.each(func(c *session) { c.Close(wire.CloseRestart, "the stream was created again") })
		},
	})
	s.host = conn.Host{
		Hub: s.hub, Budget: s.budget, Conflations: m.conflations, SentBytes: m.bytes, Blocked: m.draining,
	}
	return s
}

// groups makes a feed's groups, one for each writer.
func (s *server) groups(f *hub.Feed) []hub.Group {
	all := make([]hub.Group, len(s.writers))
	for i, w := range s.writers {
		all[i] = w.NewGroup(f)
	}
	return all
}

// run serves the connections until ctx ends, by when the caller must have
// ended them all (drain).
func (s *server) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, w := range s.writers {
		wg.Go(func() { w.Run(ctx) })
	}
	wg.Go(func() { s.sweep(ctx) })
	wg.Go(func() { s.watch(ctx) })
	wg.Wait()
}

// drain asks every client to go elsewhere, each after a time of its own, and
// closes the connections spread over the drain time. It returns when all are
// gone, or after the drain time and what closing may take.
func (s *server) drain() {
	s.drained.Store(true)
	gone := s.conns.shut()
	conns := s.conns.all()
	if len(conns) > 0 {
		s.log.Info("draining", "connections", len(conns), "over", s.cfg.DrainTime)
	}
	rand.Shuffle(len(conns), func(i, j int) { conns[i], conns[j] = conns[j], conns[i] })
	// A client told to leave at once would meet the next one that is leaving:
	// each hears when its own connection ends.
	step := s.cfg.DrainTime / time.Duration(max(1, len(conns)))
	for i, c := range conns {
		after := time.Duration(i) * step
		c.Say(&wire.ServerFrame{GoAway: &wire.GoAway{Reason: "draining", ReconnectAfterMs: after.Milliseconds()}})
	}
	start := time.Now()
	for i, c := range conns {
		if wait := time.Until(start.Add(time.Duration(i) * step)); wait > time.Millisecond {
			select {
			case <-time.After(wait):
			case <-gone: // all left by themselves, as they were asked to
				return
			}
		}
		c.Close(wire.CloseRestart, "")
	}
	s.conns.each(func(c *session) { c.Close(wire.CloseRestart, "") }) // that came in between
	select {
	case <-gone:
	case <-time.After(conn.CloseWait + time.Second):
		s.conns.each((*session).Fail)
		<-gone
	}
}

// forget cleans up after a connection whose reader has ended.
func (s *server) forget(c *session) {
	c.Fail()
	c.Leave()
	code := c.Code()
	s.metrics.connections.Dec()
	s.metrics.closed.WithLabelValues(closeLabel(code)).Inc()
	level := slog.LevelDebug
	if code == wire.CloseSlowConsumer || code == wire.ClosePingTimeout || code == wire.CloseBadFrame {
		level = slog.LevelInfo
	}
	s.log.Log(context.Background(), level, "connection ended", "connection", c.Name, "why", closeLabel(code))
	s.conns.remove(c) // last: drain waits for it
}

// A registry is the connections of a gateway and the places they take.
type registry struct {
	mu    sync.Mutex
	m     map[uint64]*session
	n     int           // places taken: with those on their way in
	empty chan struct{} // set when no more may come; closed when none is left
}

// reserve takes one of max places; false when all are taken.
func (r *registry) reserve(max int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n >= max || r.empty != nil {
		return false
	}
	r.n++
	return true
}

// release gives a place back.
func (r *registry) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n--; r.n == 0 && r.empty != nil {
		close(r.empty)
	}
}

// shut takes no more connections. The channel it returns is closed when the
// last one has gone.
func (r *registry) shut() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.empty = make(chan struct{})
	if r.n == 0 {
		close(r.empty)
	}
	return r.empty
}

// add fills a reserved place.
func (r *registry) add(c *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m == nil {
		r.m = map[uint64]*session{}
	}
	r.m[c.ID] = c
}

// remove frees the place of a connection that is gone.
func (r *registry) remove(c *session) {
	r.mu.Lock()
	delete(r.m, c.ID)
	r.mu.Unlock()
	r.release()
}

func (r *registry) all() []*session {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Values(r.m))
}

// each calls fn for every connection, under the registry's mutex.
func (r *registry) each(fn func(*session)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.m {
		fn(c)
	}
}
