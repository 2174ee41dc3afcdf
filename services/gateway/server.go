package gateway

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

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
	cfg     Config
	name    string
	hub     *hub.Hub
	budget  *memory.Budget
	evictor evictor
	gate    *gate
	sockets sockets
	metrics *metrics
	log     *slog.Logger
	host    conn.Host
	writers []*conn.Writer

	readbacks *readbacks
	conns     registry
	nextID    atomic.Uint64
	drained   atomic.Bool // no new connections
}

func newServer(cfg Config, name string, writers int, m *metrics, log *slog.Logger) *server {
	s := &server{
		cfg: cfg, name: name, metrics: m, log: log, budget: memory.New(int64(cfg.memory())), gate: newGate(cfg.AcceptRate),
	}
	m.memoryBudget.Set(float64(s.budget.Limit()))
	for i := range max(1, writers) {
		s.writers = append(s.writers, conn.NewWriter(i, &s.host))
	}
	s.hub = hub.New(hub.Options{
		Encoder: frame.Encoder{}, Budget: s.budget, Metrics: m.hub(), Log: log,
		MaxTopics: cfg.MaxStreamTopics, History: cfg.History, HistoryBytes: int(min(historyBytes, s.budget.Limit()/8)),
		Groups: s.groups, OnShort: s.evictor.makeRoom,
		OnReset: func() {
			s.conns.each(func(c *session) { c.Close(wire.CloseRestart, "the stream was created again") })
		},
	})
	s.host = conn.Host{
		Hub: s.hub, Budget: s.budget, Conflations: m.conflations, SentBytes: m.bytes, Blocked: m.draining,
	}
	s.evictor = evictor{budget: s.budget, hub: s.hub, conns: &s.conns, sockets: &s.sockets, metrics: m, log: log}
	s.readbacks = newReadbacks(s.hub, s.budget, m.readbacks, log)
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
	// If all clients left at once, they would meet at the next gateway that drains:
	// each gets the time at which its own connection ends.
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
