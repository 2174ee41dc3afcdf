package gateway

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/memory"
	"golang.org/x/time/rate"
)

const (
	// queueWait is the longest that a client waits for its turn: the queue holds
	// as many as are taken in that time.
	queueWait = 2 * time.Second
	// requestWait is how long a socket may take to say what it wants.
	requestWait = 5 * time.Second
	// retryLeast and retrySpread are when a client for whom there is no room may
	// come again; spread, so that they do not come together.
	retryLeast  = 2 * time.Second
	retrySpread = 8 * time.Second
	// againMost bounds when a client that the gate turns away may come again.
	againMost = time.Minute
)

// A gate lets clients in at a rate. Those who come faster wait for their turn;
// those who would wait too long are turned away, and told when their turn is:
// of ten thousand that come at once, all are in as soon as the rate allows.
type gate struct {
	limit   *rate.Limiter
	away    *rate.Limiter // the turns of those who were turned away
	waiting atomic.Int64
	mu      sync.Mutex // held while a turn is taken that may be given back
}

// take takes a turn that is no later than most. (Of a turn that is given back
// when another was taken after it, a limiter gives nothing back.)
func (g *gate) take(from *rate.Limiter, most time.Duration) (turn *rate.Reservation, wait time.Duration, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	turn = from.Reserve()
	if wait = turn.Delay(); wait > most {
		turn.Cancel()
		return nil, wait, false
	}
	return turn, wait, true
}

func newGate(perSecond int) *gate {
	return &gate{
		limit: rate.NewLimiter(rate.Limit(perSecond), max(1, perSecond/4)),
		away:  rate.NewLimiter(rate.Limit(perSecond), 1),
	}
}

// again is when a client that is turned away may come again, in whole seconds:
// as many are told to come in each as are let in, and the queue takes what
// comes unevenly. Nobody is told to come later than againMost; if so many were
// turned away, they come spread over half of it.
func (g *gate) again() time.Duration {
	_, wait, ok := g.take(g.away, againMost-time.Second)
	if !ok {
		wait = againMost/2 + rand.N(againMost/2)
	}
	return wait.Truncate(time.Second) + time.Second
}

// Why a client is turned away.
var (
	errQueueFull = errors.New("too many clients come at once")
	errShort     = errors.New("the gateway is short of memory")
)

// reasonQueue is the metric's label for those whom the gate turns away.
const reasonQueue = "queue"

// enter waits for a turn.
func (g *gate) enter(ctx context.Context) error {
	turn, wait, ok := g.take(g.limit, queueWait)
	switch {
	case !ok:
		return errQueueFull
	case wait == 0:
		return nil
	}
	g.waiting.Add(1)
	defer g.waiting.Add(-1)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		turn.Cancel()
		return ctx.Err()
	}
}

// retryAfter is when a client for whom there is no room may come again.
func retryAfter() time.Duration {
	return (retryLeast + rand.N(retrySpread)).Round(time.Second)
}

// retry is when a client that is turned away for a reason may come again.
func (s *server) retry(reason string) time.Duration {
	if reason == reasonQueue {
		return s.gate.again()
	}
	return retryAfter()
}

// overloaded is the reason of a close frame with code 1013.
func overloaded(why string) string { return wire.RetryIn(why, retryAfter()) }

// turnAway answers a request that there is no room for.
func (s *server) turnAway(w http.ResponseWriter, reason, why string) {
	s.metrics.refused.WithLabelValues(reason).Inc()
	w.Header().Set("Retry-After", strconv.Itoa(int(s.retry(reason).Seconds())))
	http.Error(w, why, http.StatusServiceUnavailable)
}

// let waits until a client may come in, and takes a place for it. Otherwise it
// says why not: by the metric's label, and in words.
func (s *server) let(ctx context.Context) (reason, why string) {
	if err := s.gate.enter(ctx); err != nil {
		return reasonQueue, errQueueFull.Error()
	}
	if !s.budget.Room(memory.ConnectionCost) {
		return "memory", errShort.Error()
	}
	if !s.conns.reserve(s.cfg.MaxConnections) {
		return "full", "as many connections as this gateway holds"
	}
	s.budget.Grow(memory.ConnectionCost)
	return "", ""
}

// sockets are the connections of the HTTP server: those whose client has not
// asked for anything yet, has not been answered, or may ask again.
type sockets struct {
	mu sync.Mutex
	m  map[net.Conn]*socket
}

type socket struct {
	asked atomic.Bool // a whole request came
	since time.Time   // of the connection or of the last answer; zero while idle
}

type socketKey struct{}

func (k *sockets) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.m)
}

// watchSockets has the HTTP server tell of its connections.
func (s *server) watchSockets(h *http.Server) {
	k := &s.sockets
	k.m = map[net.Conn]*socket{}
	h.ConnContext = func(ctx context.Context, nc net.Conn) context.Context {
		sock := &socket{since: time.Now()}
		k.mu.Lock()
		k.m[nc] = sock
		n := len(k.m)
		k.mu.Unlock()
		s.budget.Grow(memory.SocketCost)
		if n > max(s.cfg.MaxConnections, 1000) || !s.budget.Room(0) && n > 100 {
			s.metrics.refused.WithLabelValues("sockets").Inc()
			nc.Close() // the server sees it and lets go
		}
		return context.WithValue(ctx, socketKey{}, sock)
	}
	h.ConnState = func(nc net.Conn, state http.ConnState) {
		k.mu.Lock()
		defer k.mu.Unlock()
		switch sock := k.m[nc]; {
		case sock == nil:
		case state == http.StateHijacked, state == http.StateClosed:
			delete(k.m, nc)
		case state == http.StateIdle:
			sock.asked.Store(false)
			sock.since = time.Time{}
		case state == http.StateActive && sock.since.IsZero():
			sock.since = time.Now()
		}
	}
	next := h.Handler
	h.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if sock, ok := r.Context().Value(socketKey{}).(*socket); ok {
			sock.asked.Store(true)
		}
		next.ServeHTTP(w, r)
	})
}

// tooLate is the answer to a request that does not come.
var tooLate = fmt.Appendf(nil, "HTTP/1.1 408 Request Timeout\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\nno whole request within %v\n", requestWait)

// sweepSockets closes those that do not say what they want.
func (s *server) sweepSockets(now time.Time) {
	k := &s.sockets
	k.mu.Lock()
	defer k.mu.Unlock()
	for nc, sock := range k.m {
		if sock.asked.Load() || sock.since.IsZero() || now.Sub(sock.since) < requestWait {
			continue
		}
		s.metrics.refused.WithLabelValues("no_request").Inc()
		_ = nc.SetWriteDeadline(now.Add(sweepEvery)) // nothing was written to it yet: this does not wait
		_, _ = nc.Write(tooLate)                     // it is closed either way
		nc.Close()
		delete(k.m, nc)
	}
}
