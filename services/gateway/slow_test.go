package gateway

import (
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pollcast/pollcast/pkg/wire"
)

// dialSmall connects with a small receive buffer, so that the connection fills
// soon when nobody reads.
func dialSmall(t *testing.T, addr, path string) *websocket.Conn {
	t.Helper()
	d := websocket.Dialer{NetDial: func(network, addr string) (net.Conn, error) {
		c, err := net.Dial(network, addr)
		if err == nil {
			err = c.(*net.TCPConn).SetReadBuffer(64 << 10)
		}
		return c, err
	}, EnableCompression: true} // if the gateway is so configured
	ws, _, err := d.Dial("ws://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.Close() })
	if strings.Contains(path, "?") { // it subscribes: wait for that
		p := &peer{t, ws}
		p.until("subscribed", func(f wire.ServerFrame) bool { return f.Subscribed != nil })
	}
	return ws
}

// A client that does not read is closed with 4002 once it is maxLag behind, and
// nobody else notices: every other client gets every event, in order.
func TestSlowConsumer(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxLag = 1 << 20 })
	slow := dialSmall(t, r.gw.Addr(), "/v1/ws?topics=big.x")
	quick := r.dial("/v1/ws?topics=big.x")
	quick.next() // subscribed
	body := `"` + strings.Repeat("x", 32<<10) + `"`
	events := uint64(0)
	var seen atomic.Uint64       // the version that the quick client is at
	read := make(chan uint64, 1) // the last version the quick client read
	stop := make(chan uint64, 1) // the last version there is
	go func() {
		got, want := uint64(0), uint64(1<<62)
		defer func() { read <- got }()
		for got < want {
			f := quick.next()
			if f.Fresh != nil {
				continue // nobody publishes freshness here
			}
			if f.Event == nil || f.Event.Version != got+1 {
				t.Errorf("have %+v after version %d", f.Event, got)
				return
			}
			got = f.Event.Version
			seen.Store(got)
			select {
			case want = <-stop:
			default:
			}
		}
	}()
	closing := func() bool {
		for _, c := range r.gw.server.conns.all() {
			if c.IsClosing() {
				return true
			}
		}
		return false
	}
	for end := time.Now().Add(patience); !closing(); events++ {
		if time.Now().After(end) {
			t.Fatalf("the slow client still lives after %d events of 32 KB", events)
		}
		r.event("big.x", body)
		for events > seen.Load()+8 && time.Now().Before(end) { // so that it is quick on a busy machine, too
			time.Sleep(time.Millisecond)
		}
	}
	stop <- events + 1
	r.event("big.x", body)
	events++
	if got := <-read; got != events {
		t.Fatalf("the quick client read %d of %d events", got, events)
	}
	// What had been sent arrives whole, then the code that says why.
	last := uint64(0)
	slow.SetReadDeadline(time.Now().Add(patience))
	for {
		_, b, err := slow.ReadMessage()
		if websocket.IsCloseError(err, int(wire.CloseSlowConsumer)) {
			break
		}
		if err != nil {
			t.Fatalf("have %v, want close 4002", err)
		}
		if i := strings.Index(string(b), `"version":`); i >= 0 {
			var v uint64
			if _, err := fmt.Sscanf(string(b[i:]), `"version":%d`, &v); err != nil || v != last+1 {
				t.Fatalf("version %d after %d (%v)", v, last, err)
			}
			last = v
		}
	}
	if last == 0 || last >= events {
		t.Errorf("the slow client read %d of %d events, want some and not all", last, events)
	}
}

// A client that reads slowly, but not too slowly, gets everything.
func TestSlowButSteady(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxLag = 64 << 20 })
	ws := dialSmall(t, r.gw.Addr(), "/v1/ws?topics=big.x")
	body := `"` + strings.Repeat("x", 32<<10) + `"`
	const events = 200 // 6.5 MB: more than the sockets hold
	for range events {
		r.event("big.x", body)
	}
	eventually(t, "its socket is full", func() bool {
		for _, c := range r.gw.server.conns.all() {
			if c.Blocked() {
				return true
			}
		}
		return false
	})
	p := &peer{t, ws}
	for want := uint64(1); want <= events; {
		if f := p.next(); f.Event != nil {
			if f.Event.Version != want {
				t.Fatalf("version %d, want %d", f.Event.Version, want)
			}
			want++
		}
	}
	eventually(t, "it is back with its writer", func() bool { return !r.only().Blocked() })
	p.ws.WriteMessage(websocket.TextMessage, []byte(`{"id":5,"ping":{}}`))
	p.until("pong", func(f wire.ServerFrame) bool { return f.ID == 5 && f.Pong != nil })
}
