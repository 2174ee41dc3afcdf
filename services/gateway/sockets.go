package gateway

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/services/gateway/memory"
	"github.com/prometheus/client_golang/prometheus"
)

// requestWait is how long a socket may take to send a whole request.
const requestWait = 5 * time.Second

// answerWait is how long the answer to a request that does not come may take.
const answerWait = 250 * time.Millisecond

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

// watch has the HTTP server report its connections. Those beyond most are closed.
func (k *sockets) watch(h *http.Server, most int, budget *memory.Budget, refused *prometheus.CounterVec) {
	k.m = map[net.Conn]*socket{}
	h.ConnContext = func(ctx context.Context, nc net.Conn) context.Context {
		sock := &socket{since: time.Now()}
		k.mu.Lock()
		k.m[nc] = sock
		n := len(k.m)
		k.mu.Unlock()
		budget.Grow(memory.SocketCost)
		if n > max(most, 1000) || !budget.Room(0) && n > 100 {
			refused.WithLabelValues("sockets").Inc()
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
var tooLate = fmt.Appendf(nil, "HTTP/1.1 408 Request Timeout\r\nContent-Type: text/plain; charset=utf-8\r\n"+
	"Connection: close\r\n\r\nno whole request within %v\n", requestWait)

// sweep closes those whose request does not come.
func (k *sockets) sweep(now time.Time, refused *prometheus.CounterVec) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for nc, sock := range k.m {
		if sock.asked.Load() || sock.since.IsZero() || now.Sub(sock.since) < requestWait {
			continue
		}
		refused.WithLabelValues("no_request").Inc()
		_ = nc.SetWriteDeadline(now.Add(answerWait)) // nothing was written to it yet: this does not wait
		_, _ = nc.Write(tooLate)                     // it is closed either way
		nc.Close()
		delete(k.m, nc)
	}
}
