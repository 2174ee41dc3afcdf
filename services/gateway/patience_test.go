package gateway

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/ws"
)

// only is the gateway's only connection.
func (r *rig) only() *session {
	r.t.Helper()
	conns := r.gw.server.conns.all()
	if len(conns) != 1 {
		r.t.Fatalf("%d connections, want one; ended: %v", len(conns), r.gw.Status().Closed)
	}
	return conns[0]
}

// block publishes until the only connection's socket is full.
func (r *rig) block(topic, body string) *session {
	r.t.Helper()
	for end := time.Now().Add(patience); ; {
		for _, c := range r.gw.server.conns.all() {
			if c.Blocked() {
				return c
			}
		}
		if time.Now().After(end) {
			r.t.Fatal("its socket takes everything")
		}
		r.event(topic, body)
	}
}

// A client that is closed and does not read goes all the same, and until then
// keeps nothing of its feed alive.
func TestClosedButNotReading(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.MaxLag = 64 << 10 })
	dialSmall(t, r.gw.Addr(), "/v1/ws?topics=big.x")
	body := `"` + strings.Repeat("x", 32<<10) + `"`
	c := r.block("big.x", body)
	eventually(t, "it is closed", func() bool { r.event("big.x", body); return c.IsClosing() })
	eventually(t, "it has let go of its feed", func() bool {
		r.gw.server.evictor.recount()
		u := r.gw.server.evictor.last.Load()
		return c.Lag() > 0 && u.Feeds < 512<<10 && c.Private() < 128<<10
	})
	eventually(t, "it has gone", func() bool { return len(r.gw.server.conns.all()) == 0 })
}

// A client that reads, but never catches up within maxLagTime, is closed with
// the place to resume from, however few bytes it is behind.
func TestMaxLagTime(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.MaxLag, c.MaxLagTime = 1<<30, time.Second })
	ws := dialSmall(t, r.gw.Addr(), "/v1/ws?topics=big.x")
	body := `"` + strings.Repeat("x", 32<<10) + `"`
	c := r.block("big.x", body)
	for range 300 { // 10 MB, of which it reads a little at a time
		r.event("big.x", body)
	}
	last := uint64(0)
	p := &peer{t, ws}
	for !c.IsClosing() {
		if f := p.next(); f.Event != nil {
			last = f.Event.Seq
		}
		time.Sleep(20 * time.Millisecond)
	}
	for {
		ws.SetReadDeadline(time.Now().Add(patience))
		_, b, err := ws.ReadMessage()
		if ce, ok := err.(*websocket.CloseError); ok {
			if want := fmt.Sprintf("slow consumer; resume since seq %d", last); ce.Code != int(wire.CloseSlowConsumer) || ce.Text != want {
				t.Errorf("have %d %q, want 4002 %q", ce.Code, ce.Text, want)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscanf(string(b[strings.Index(string(b), `"seq":`):]), `"seq":%d`, &last); err != nil {
			t.Fatal(err)
		}
	}
}

// A client with delivery latest that reads nothing for longer than the write
// deadline, pings and maxLagTime allow others stays connected, costs nothing
// but a few frames, and is up to date as soon as it reads.
func TestLatestAsSlowAsItLikes(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.PingInterval, c.MaxLagTime, c.MaxLag = time.Second, time.Second, 64<<10 })
	ws := dialSmall(t, r.gw.Addr(), "/v1/ws")
	p := &peer{t, ws}
	p.next() // welcome
	p.send(`{"id":1,"subscribe":{"topics":["big.x"],"delivery":"latest"}}`)
	p.until("subscribed", func(f wire.ServerFrame) bool { return f.Subscribed != nil })
	body := `"` + strings.Repeat("x", 32<<10) + `"`
	c := r.block("big.x", body)
	quiet := time.Now()
	for time.Since(quiet) < 12*time.Second {
		r.event("big.x", body)
		time.Sleep(20 * time.Millisecond)
		if cost := c.Cost(); cost > 256<<10 {
			t.Fatalf("it costs %d bytes", cost)
		}
	}
	r.event("big.x", `"last"`)
	p.until("the last value", func(f wire.ServerFrame) bool { return f.Event != nil && string(f.Event.Data) == `"last"` })
}

// half opens a WebSocket by hand, to send what no library would.
func half(t *testing.T, addr string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(2 * patience))
	fmt.Fprintf(nc, "GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	var head []byte
	for b := make([]byte, 1); !strings.HasSuffix(string(head), "\r\n\r\n"); head = append(head, b[0]) {
		if _, err := io.ReadFull(nc, b); err != nil {
			t.Fatalf("handshake: %v after %q", err, head)
		}
	}
	return nc
}

// closeOf reads up to the close frame and returns its code and reason.
func closeOf(t *testing.T, nc net.Conn) (code int, reason string) {
	t.Helper()
	read := func(n int) []byte {
		b := make([]byte, n)
		if _, err := io.ReadFull(nc, b); err != nil {
			t.Errorf("no close frame: %v", err)
			return nil
		}
		return b
	}
	for {
		head := read(2)
		if head == nil {
			return 0, ""
		}
		n := int(head[1])
		if n == 126 {
			long := read(2)
			if long == nil {
				return 0, ""
			}
			n = int(long[0])<<8 | int(long[1])
		}
		b := read(n)
		switch {
		case len(b) < n:
			return 0, ""
		case head[0] == ws.Fin|ws.CloseFrame && n >= 2:
			return int(b[0])<<8 | int(b[1]), string(b[2:])
		}
	}
}
