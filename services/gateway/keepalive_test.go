package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/prometheus/client_golang/prometheus"
)

// pipes is a listener whose connections are net.Pipes, so that a whole gateway
// lives on synctest's clock.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(t *testing.T, path string) *websocket.Conn {
	t.Helper()
	d := websocket.Dialer{NetDialContext: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		p.conns <- theirs
		return ours, nil
	}}
	ws, _, err := d.Dial("ws://gateway"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return ws
}

// onVirtualClock runs fn with a gateway without NATS, whose stream was read.
func onVirtualClock(t *testing.T, fn func(t *testing.T, s *server, p *pipes)) {
	synctest.Test(t, func(t *testing.T) {
		cfg := DefaultConfig()
		cfg.DrainTime = time.Second
		s := newServer(cfg, "gw", 1, newMetrics(prometheus.NewRegistry()), quiet())
		in := &intake{Hub: s.hub}
		in.Reset("E")
		in.Connected(true, "")
		p := newPipes()
		hs := &http.Server{Handler: s.routes(http.NotFoundHandler())}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { s.run(ctx) })
		wg.Go(func() {
			if err := hs.Serve(p); !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		})
		defer func() { // also when fn fails: a sweep that goes on keeps the bubble alive
			s.drain()
			hs.Close()
			cancel()
			wg.Wait()
		}()
		fn(t, s, p)
	})
}

// A connection over which nothing is said lives on, pinged every 30 s, as long
// as it answers.
func TestKeepAlive(t *testing.T) {
	onVirtualClock(t, func(t *testing.T, s *server, p *pipes) {
		ws := p.dial(t, "/v1/ws?topics=>")
		var pings []time.Time
		answer := ws.PingHandler()
		ws.SetPingHandler(func(payload string) error {
			pings = append(pings, time.Now())
			return answer(payload)
		})
		ended := make(chan error, 1)
		frames := 0
		go func() {
			for {
				if _, _, err := ws.ReadMessage(); err != nil {
					ended <- err
					return
				}
				frames++
			}
		}()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("the connection ended: %v", err)
		default:
		}
		if frames != 2 { // welcome, subscribed
			t.Errorf("%d frames, want 2", frames)
		}
		if want := 24 * 60 * 2; len(pings) < want-30 || len(pings) > want+1 {
			t.Errorf("%d pings in 24 hours, want about %d", len(pings), want)
		}
		for i := 1; i < len(pings); i++ {
			if d := pings[i].Sub(pings[i-1]); d < 30*time.Second || d > 31*time.Second {
				t.Fatalf("ping %d came %v after the one before, want 30 s", i, d)
			}
		}
		ws.Close()
		<-ended
	})
}

// A client that stops answering is closed with 4003, and not before its time.
func TestPingTimeout(t *testing.T) {
	onVirtualClock(t, func(t *testing.T, s *server, p *pipes) {
		ws := p.dial(t, "/v1/ws")
		defer ws.Close()
		start := time.Now()
		var pinged time.Duration
		ws.SetPingHandler(func(string) error {
			if pinged == 0 {
				pinged = time.Since(start)
			}
			return nil // no pong
		})
		for {
			_, _, err := ws.ReadMessage()
			if err == nil {
				continue
			}
			if !websocket.IsCloseError(err, int(wire.ClosePingTimeout)) {
				t.Fatalf("have %v, want close 4003", err)
			}
			break
		}
		if pinged == 0 || pinged > 31*time.Second {
			t.Errorf("first ping after %v, want within the interval", pinged)
		}
		if d := time.Since(start) - pinged; d < pongWait || d > pongWait+time.Second {
			t.Errorf("closed %v after the ping, want %v", d, pongWait)
		}
	})
}

// What a client sends counts as a sign of life, also without pongs.
func TestFramesAreLife(t *testing.T) {
	onVirtualClock(t, func(t *testing.T, s *server, p *pipes) {
		ws := p.dial(t, "/v1/ws")
		defer ws.Close()
		ws.SetPingHandler(func(string) error { return nil })
		go func() {
			for range 60 {
				time.Sleep(5 * time.Second)
				if ws.WriteMessage(websocket.TextMessage, []byte(`{"id":1,"ping":{}}`)) != nil {
					return
				}
			}
		}()
		pongs := 0
		for pongs < 60 {
			_, b, err := ws.ReadMessage()
			if err != nil {
				t.Fatalf("after %d pongs: %v", pongs, err)
			}
			var f wire.ServerFrame
			if err := json.Unmarshal(b, &f); err != nil {
				t.Fatal(err)
			}
			if f.Pong != nil {
				pongs++
			}
		}
	})
}
