package gateway

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pollcast/pollcast/pkg/wire"
)

// With little memory left nobody new is let in, nothing large is begun, and
// everybody is told when to try again. (What happens at the end of the budget,
// e2e looks at from outside.)
func TestShortOfMemory(t *testing.T) {
	r := newRig(t, nil)
	r.event("a.b", "1")
	p := r.dial("/v1/ws")
	b := r.gw.server.budget
	done := b.Pass(b.Part(75) - b.Used() - 100)
	if done == nil {
		t.Fatal("the budget has no room at the start")
	}
	ws, _, err := websocket.DefaultDialer.Dial("ws://"+r.gw.Addr()+"/v1/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	_, _, err = ws.ReadMessage()
	if ce, ok := err.(*websocket.CloseError); !ok || ce.Code != int(wire.CloseOverloaded) || !strings.HasPrefix(ce.Text, errShort.Error()) || wire.RetryHint(ce.Text) < retryLeast {
		t.Errorf("have %v, want 1013 and when to try again", err)
	}
	for _, path := range []string{"/v1/events?topics=a.b", "/v1/values?topics=a.b", "/v1/topics"} {
		res, err := http.Get("http://" + r.gw.Addr() + path)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || !strings.Contains(string(text), errShort.Error()) {
			t.Errorf("%s: have %s %q, want 503 with Retry-After", path, res.Status, text)
		}
	}
	p.send(`{"id":1,"subscribe":{"topics":["a.b"]}}`)
	if f := p.next(); f.ID != 1 || f.Error == nil || f.Error.Code != wire.CodeUnavailable || !f.Error.Retryable {
		t.Errorf("have %+v, want a retryable error unavailable", f.Error)
	}
	counted(t, r.gw.server.metrics.refused, "memory", 4)
	done()
	p.send(`{"id":2,"subscribe":{"topics":["a.b"]}}`)
	if f := p.next(); f.Subscribed == nil {
		t.Errorf("with room again: have %+v, want subscribed", f.Error)
	}
	http.DefaultClient.CloseIdleConnections()
}

// Clients are let in at the rate; as many wait as are let in within queueWait,
// and the others are turned away at once.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(100) // and 25 at once
		start := time.Now()
		in, out := make(chan time.Duration, 1000), make(chan time.Duration, 1000)
		for range 1000 {
			go func() {
				if g.enter(context.Background()) == nil {
					in <- time.Since(start)
				} else {
					out <- time.Since(start)
				}
			}()
		}
		synctest.Wait()
		if n := g.waiting.Load(); n != 200 {
			t.Errorf("%d wait, want 200", n)
		}
		if len(in) != 25 || len(out) != 775 {
			t.Errorf("at once %d in and %d turned away, want 25 and 775", len(in), len(out))
		}
		time.Sleep(queueWait)
		synctest.Wait()
		if len(in) != 225 || len(out) != 775 {
			t.Errorf("%d in and %d turned away, want 225 and 775", len(in), len(out))
		}
		ctx, cancel := context.WithCancel(context.Background())
		for range 25 {
			_ = g.enter(ctx)
		}
		left := make(chan error, 1)
		go func() { left <- g.enter(ctx) }()
		cancel()
		if err := <-left; err != nil && err != context.Canceled {
			t.Errorf("who leaves: %v", err)
		}
	})
}

// Who is turned away is told when its turn is: if all keep to it, they are let
// in as fast as the rate allows, and hardly anybody is turned away twice.
func TestGateAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, clients = 100, 1000
		g := newGate(rate)
		start := time.Now()
		var away atomic.Int64
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				for g.enter(context.Background()) != nil {
					away.Add(1)
					time.Sleep(g.again())
				}
			})
		}
		all.Wait()
		if took, want := time.Since(start), clients*time.Second/rate; took > want+time.Second {
			t.Errorf("all are in after %v, want %v", took, want)
		}
		if n := away.Load(); n > clients {
			t.Errorf("turned away %d times, want once each at most", n)
		}
		for range 100 * rate {
			if wait := g.again(); wait < time.Second || wait > againMost {
				t.Fatalf("told to come in %v, want 1s to %v", wait, againMost)
			}
		}
	})
}
