package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/conn"
	"github.com/pollcast/pollcast/services/gateway/frame"
	"github.com/pollcast/pollcast/services/gateway/hub"
	"github.com/pollcast/pollcast/services/gateway/ws"
)

const (
	// sweepEvery is the period of the one clock behind silence, pings and lag.
	sweepEvery = 250 * time.Millisecond
	// recountEvery is how many sweeps there are to a recount of the memory while
	// there is plenty; what grows fast has one made at once (budget.go).
	recountEvery = 4
	// pongWait is how long after a ping a sign of life must come.
	pongWait = 10 * time.Second
)

// run serves the connections until ctx ends, by when the caller must have
// ended them all (drain).
func (s *server) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, w := range s.writers {
		wg.Go(func() { w.Run(ctx) })
	}
	wg.Go(func() { s.sweep(ctx) })
	wg.Go(func() { s.evictor.watch(ctx) })
	wg.Wait()
}

// sweep runs the gateway's only timer until ctx ends.
func (s *server) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			s.hub.Sweep(now)
			s.metrics.setReady(s.ready())
			s.conns.each(func(c *session) { s.check(c, now) })
			s.sockets.sweep(now, s.metrics.refused)
			s.readbacks.sweep(now)
			if n%recountEvery == 0 || !s.budget.Room(0) {
				s.evictor.recount()
			}
			s.metrics.waiting.Set(float64(s.gate.waiting.Load()))
		}
	}
}

// check pings a connection when it is time, and closes it when it has stopped
// answering or fallen too far behind.
func (s *server) check(c *session, now time.Time) {
	// Only one whose socket is full is slow: the others are about to be written
	// to. With delivery latest it keeps nothing waiting (conflate.go).
	if at := c.ClosingSince(); at != 0 {
		if now.UnixNano()-at > int64(conn.CloseLimit) {
			c.Fail() // whatever its client is waiting for
		}
		return
	}
	blocked := c.Blocked()
	if age := c.Age(now.UnixNano()); blocked && !c.Latest() && (c.Lag() > uint64(s.cfg.MaxLag) || age > s.cfg.MaxLagTime) {
		c.Close(wire.CloseSlowConsumer, "")
		return
	}
	heard, pinged := c.Heard(), c.pinged
	switch {
	case blocked && c.Latest():
		// It may be as slow as it likes, and no ping would get through. A dead
		// peer is the kernel's to find.
	case c.Format != hub.SSE && pinged > heard && now.UnixNano()-pinged > int64(pongWait):
		c.Close(wire.ClosePingTimeout, "")
	case now.UnixNano()-pinged > int64(s.cfg.PingInterval):
		c.pinged = now.UnixNano()
		if c.Format == hub.SSE {
			c.Send(frame.Heartbeat)
		} else {
			c.Send(pingFrame)
		}
	}
}

var pingFrame = ws.Control(ws.Ping, nil)
