package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// TestBadInput checks that a client that breaks the protocol gets the right error
// or close code, and that no other client is affected.
func TestBadInput(t *testing.T) {
	t.Parallel()
	const interval = 250 * time.Millisecond
	up := newUpstream(t)
	s := newStack(t, fmt.Sprintf("    s: {upstreams: [%q], polls: {p: {method: p, interval: %v}}}\n", up.url(), interval))
	_, gateway := s.all()
	bystander := dial(t, gateway.addr, "/v1/ws?topics=s.>")
	bystander.await("live values", liveEvent("s.p"))

	t.Run("while others watch", func(t *testing.T) {
		t.Run("frames", func(t *testing.T) { t.Parallel(); badFrames(t, gateway.addr) })
		t.Run("closed", func(t *testing.T) { t.Parallel(); badConnections(t, gateway.addr) })
		t.Run("handshakes", func(t *testing.T) { t.Parallel(); badHandshakes(t, gateway.addr) })
		t.Run("bytes", func(t *testing.T) { t.Parallel(); badBytes(t, gateway.addr) })
		t.Run("leavers", func(t *testing.T) { t.Parallel(); rudeLeavers(t, gateway.addr) })
	})

	// The rules have checked that the bystander missed nothing. It never waited
	// much longer than an interval.
	bystander.skip()
	bystander.await("live values still", liveEvent("s.p"))
	events := bystander.seen(liveEvent("s.p"))
	for i := range events[1:] {
		if gap := events[i+1].at.Sub(events[i].at); gap > interval+time.Second {
			t.Errorf("a bystander got nothing for %v, the interval is %v", gap, interval)
		}
	}
	if bad := bystander.seen(func(f frame) bool {
		return f.Error != nil || f.GoAway != nil || f.Fresh != nil && f.Fresh.Stale && !f.Fresh.AsOf.IsZero()
	}); len(bad) > 0 {
		t.Errorf("a bystander received: %s", bad[0].raw)
	}
	gateway.ready()
}

// badFrames checks frames that are answered with an error. The connection stays
// open.
func badFrames(t *testing.T, addr string) {
	long := strings.Repeat("x", 600)
	for _, tt := range []struct {
		name, frame string
		id          uint64
		code        string
		message     string // a text in the error's message
	}{
		{"garbage", "\x01\x02 hello?", 0, "bad_frame", "not a JSON object"},
		{"half a frame", `{"id":4,"subscribe":{"topics":["s.`, 0, "bad_frame", "not a JSON object"},
		{"list", `[1,2,3]`, 0, "bad_frame", "not a JSON object"},
		{"empty", ``, 0, "bad_frame", "not a JSON object"},
		{"nothing asked", `{"id":5}`, 5, "bad_frame", "exactly one of"},
		{"two things asked", `{"id":6,"ping":{},"subscribe":{"topics":["s.>"]}}`, 6, "bad_frame", "exactly one of"},
		{"null", `{"id":7,"subscribe":null}`, 7, "bad_frame", "null"},
		{"id is no number", `{"id":"x","ping":{}}`, 0, "bad_frame", "id"},
		{"negative id", `{"id":-1,"ping":{}}`, 0, "bad_frame", "id"},
		{"topics is no list", `{"id":8,"subscribe":{"topics":"s.p"}}`, 8, "bad_frame", "topics"},
		{"unknown frame", `{"id":9,"publish":{"topic":"s.p","data":1}}`, 9, "unknown_frame", "subscribe"},
		{"no topics", `{"id":10,"subscribe":{}}`, 10, "invalid_topic", "at least one topic"},
		{"empty topic", `{"id":11,"subscribe":{"topics":[""]}}`, 11, "invalid_topic", "empty"},
		{"empty token", `{"id":12,"subscribe":{"topics":["s..p"]}}`, 12, "invalid_topic", "token 2 is empty"},
		{"wildcard inside", `{"id":13,"subscribe":{"topics":["s.>.p"]}}`, 13, "invalid_topic", "at the end"},
		{"reserved", `{"id":14,"subscribe":{"topics":["s.p._fresh"]}}`, 14, "invalid_topic", "reserved"},
		{"a NATS subject", `{"id":15,"subscribe":{"topics":["$JS.API.>"]}}`, 15, "invalid_topic", `'$'`},
		{"long topic", `{"id":16,"subscribe":{"topics":["` + long + `"]}}`, 16, "invalid_topic", "at most 512"},
		{"one bad of two", `{"id":17,"subscribe":{"topics":["s.p","s p"]}}`, 17, "invalid_topic", `' '`},
		{"too many topics", `{"id":18,"subscribe":{"topics":["a` + strings.Repeat(`","a`, 300) + `"]}}`, 18, "limit", "256"},
		{"unknown delivery", `{"id":19,"subscribe":{"topics":["s.p"],"delivery":"some"}}`, 19, "invalid", "delivery"},
		{"unknown replay", `{"id":20,"subscribe":{"topics":["s.p"],"replay":"all"}}`, 20, "invalid", "replay"},
		{"huge id", `{"id":18446744073709551616,"ping":{}}`, 0, "bad_frame", "id"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			c := dial(t, addr, "/v1/ws")
			c.send(tt.frame)
			f := c.await("an error", func(f frame) bool { return f.Error != nil })
			if f.Error.Code != tt.code || f.ID != tt.id || !strings.Contains(f.Error.Message, tt.message) || f.Error.Retryable {
				t.Errorf("have  %s\nwant  id %d, code %s, a message with %q, not retryable", f.raw, tt.id, tt.code, tt.message)
			}
			c.send(`{"id":99,"ping":{}}`)
			if f := c.await("a pong", func(f frame) bool { return f.ID == 99 }); f.Pong == nil {
				t.Errorf("after the error: %s", f.raw)
			}
			if n := len(c.seen(func(f frame) bool { return f.Event != nil || f.Subscribed != nil })); n > 0 {
				t.Errorf("%d frames of a subscription that was refused", n)
			}
		})
	}
	t.Run("binary", func(t *testing.T) {
		c := dial(t, addr, "/v1/ws")
		c.write(websocket.MessageBinary, []byte(`{"id":1,"ping":{}}`))
		if f := c.await("an error", func(f frame) bool { return f.Error != nil }); f.Error.Code != "bad_frame" ||
			!strings.Contains(f.Error.Message, "binary") {
			t.Errorf("a binary message: %s", f.raw)
		}
	})
	t.Run("in_the_address", func(t *testing.T) {
		c := dial(t, addr, "/v1/ws?topics=s..p")
		if f := c.await("an error", func(f frame) bool { return f.Error != nil }); f.Error.Code != "invalid_topic" {
			t.Errorf("?topics=s..p: %s", f.raw)
		}
	})
	t.Run("too_fast", func(t *testing.T) {
		c := dial(t, addr, "/v1/ws")
		for range 110 { // the limit is 50 a second, and 100 at once
			c.send(`{"id":1,"ping":{}}`)
		}
		if f := c.await("an error", func(f frame) bool { return f.Error != nil }); f.Error.Code != "rate_limited" ||
			!f.Error.Retryable {
			t.Errorf("110 frames at once: %s", f.raw)
		}
	})
}

// badConnections checks connections that are closed with a code.
func badConnections(t *testing.T, addr string) {
	for _, tt := range []struct {
		name string
		do   func(c *client)
		code int
	}{
		{"1_MB", func(c *client) { c.send(`{"id":1,"ping":{"x":"` + strings.Repeat("x", 1<<20) + `"}}`) }, 1009},
		{"not_UTF-8", func(c *client) { c.send("{\"id\":1,\"ping\":{\"x\":\"\xff\xfe\"}}") }, 1007},
		{"only_garbage", func(c *client) {
			for range 30 {
				c.send(`garbage`)
			}
		}, 4502},
		{"flood", func(c *client) {
			for range 500 {
				c.send(`{"id":1,"ping":{}}`)
			}
		}, 4502},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, addr, "/v1/ws?topics=s.>")
			c.await("a value", anyEvent("s.p"))
			tt.do(c)
			if code := c.closeCode(); code != tt.code {
				t.Errorf("closed with %d, want %d: %v", code, tt.code, c.closed)
			}
		})
	}
}

// badHandshakes checks handshakes that are refused with an HTTP status and a
// text.
func badHandshakes(t *testing.T, addr string) {
	for _, tt := range []struct {
		name, query string
		header      http.Header
		status      int
		message     string
	}{
		{"another_site", "/v1/ws", http.Header{"Origin": {"https://evil.example"}}, http.StatusForbidden,
			"gateway.allowedOrigins"},
		{"unknown_subprotocol", "/v1/ws", http.Header{"Sec-WebSocket-Protocol": {"graphql-ws"}}, http.StatusBadRequest,
			"pollcast.v1.json"},
		{"empty_topics", "/v1/ws?topics=", nil, http.StatusBadRequest, "?topics="},
		{"no_such_path", "/v2/ws", nil, http.StatusNotFound, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, text, err := httpStatus(addr, tt.query, tt.header)
			if status != tt.status || !strings.Contains(text, tt.message) {
				t.Errorf("HTTP %d %q %v, want %d and %q", status, text, err, tt.status, tt.message)
			}
		})
	}
	t.Run("no_upgrade", func(t *testing.T) {
		code, text, err := get("http://" + addr + "/v1/ws")
		if code != http.StatusUpgradeRequired || !bytes.Contains(text, []byte("WebSocket")) {
			t.Errorf("HTTP %d %q %v, want 426", code, text, err)
		}
	})
	t.Run("long_head", func(t *testing.T) {
		status, _, err := httpStatus(addr, "/v1/ws?topics="+strings.Repeat("a", 32<<10), nil)
		if status != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("32 KiB of topics: HTTP %d %v, want 431", status, err)
		}
	})
}

// badBytes breaks the WebSocket protocol itself, which needs a bare socket.
func badBytes(t *testing.T, addr string) {
	masked := []byte{0, 0, 0, 0}
	frame := func(first, second byte, rest ...byte) []byte {
		return append(append([]byte{first, second}, masked...), rest...)
	}
	for _, tt := range []struct {
		name  string
		bytes []byte
		code  int
	}{
		{"not_masked", append([]byte{0x81, 0x02}, "{}"...), 1002},
		{"reserved_bit", frame(0xc1, 0x82, '{', '}'), 1002},
		{"unknown_opcode", frame(0x83, 0x80), 1002},
		{"continues_nothing", frame(0x80, 0x80), 1002},
		{"long_ping", append(append([]byte{0x89, 0xfe, 0x00, 0x80}, masked...), make([]byte, 128)...), 1002},
		{"close_with_an_invalid_code", frame(0x88, 0x82, 0x03, 0xed), 1002}, // 1005
		{"claims_8_EB", append([]byte{0x81, 0xff, 0x70, 0, 0, 0, 0, 0, 0, 0}, masked...), 1009},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := rawUpgrade(t, addr)
			if _, err := conn.Write(tt.bytes); err != nil {
				t.Fatal(err)
			}
			if code := rawClose(t, conn); code != tt.code {
				t.Errorf("closed with %d, want %d", code, tt.code)
			}
		})
	}
	t.Run("old_version", func(t *testing.T) {
		conn := rawDial(t, addr)
		fmt.Fprintf(conn, "GET /v1/ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade, close\r\nUpgrade: "+
			"websocket\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", addr)
		answer, err := io.ReadAll(conn)
		if !bytes.HasPrefix(answer, []byte("HTTP/1.1 400 ")) || !bytes.Contains(answer, []byte("version")) {
			t.Errorf("WebSocket version 8 was answered with %q %v", answer, err)
		}
	})
	t.Run("not_HTTP", func(t *testing.T) {
		conn := rawDial(t, addr)
		fmt.Fprint(conn, "SSH-2.0-OpenSSH_9.9\r\n\r\n")
		answer, err := io.ReadAll(conn)
		if !bytes.HasPrefix(answer, []byte("HTTP/1.1 400 ")) {
			t.Errorf("what is not HTTP was answered with %q %v", answer, err)
		}
	})
}

// rudeLeavers closes connections without a close frame, in the middle of frames.
func rudeLeavers(t *testing.T, addr string) {
	for range 20 {
		conn := rawUpgrade(t, addr)
		_, _ = conn.Write([]byte{0x81, 0xfe, 0x40, 0x00, 0, 0, 0, 0, '{'}) // 16 KiB are announced
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset
		}
		conn.Close()
		half := rawDial(t, addr)
		fmt.Fprint(half, "GET /v1/ws?topics=s.> HTTP/1.1\r\nHost: x\r\nUpgr")
		half.Close()
	}
	c := dial(t, addr, "/v1/ws?topics=s.>")
	c.await("live values after them", liveEvent("s.p"))
}

func rawDial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience)) // reads report a failure
	return conn
}

// rawUpgrade does the opening handshake on a bare socket (RFC 6455, section 1.3).
func rawUpgrade(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn := rawDial(t, addr)
	fmt.Fprintf(conn, "GET /v1/ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: "+
		"websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", addr)
	var head []byte
	one := make([]byte, 1)
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		if _, err := conn.Read(one); err != nil {
			t.Fatalf("handshake: %v after %q", err, head)
		}
		head = append(head, one[0])
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) || !bytes.Contains(head, []byte("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")) {
		t.Fatalf("handshake: %q", head)
	}
	return conn
}

// rawClose reads up to the close frame and returns its code; 0 if the connection
// ended without one.
func rawClose(t *testing.T, conn net.Conn) int {
	t.Helper()
	for {
		head := make([]byte, 2)
		if _, err := io.ReadFull(conn, head); err != nil {
			return 0
		}
		size := int(head[1])
		if size == 126 {
			long := make([]byte, 2)
			if _, err := io.ReadFull(conn, long); err != nil {
				return 0
			}
			size = int(long[0])<<8 | int(long[1])
		}
		payload := make([]byte, size)
		if _, err := io.ReadFull(conn, payload); err != nil {
			return 0
		}
		if head[0] == 0x88 && size >= 2 {
			return int(payload[0])<<8 | int(payload[1])
		}
	}
}
