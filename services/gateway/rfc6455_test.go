package gateway

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/pollcast/pollcast/services/gateway/ws/wstest"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// The cases of TestRFC6455 and TestRFC6455Handshake are written from RFC 6455,
// whose sections they name, against a gateway behind a real socket. The client
// here shares no code with the gateway's library.

// rfcCase is what a client sends once the connection stands, and what it must
// see.
type rfcCase struct {
	section string
	name    string
	send    [][]byte // each is one write
	want    []string // what comes back, in this order, as rfcPeer.next tells it
	end     ending
}

// ending is what the client does when it has sent everything.
type ending int

const (
	staysOpen ending = iota // a ping is answered
	ends                    // the gateway has closed the socket after its close frame
	halfClose               // the client sends FIN, and the gateway closes
	drops                   // the client goes without a word
)

// text is the answer to ask(id).
func text(id int) string { return fmt.Sprintf("text %d", id) }
func pong(payload string) string {
	return fmt.Sprintf("pong %q", payload)
}
func closed(code int) string { return fmt.Sprintf("close %d", code) }

// ask is a message that the gateway answers with the same id, filled up with
// spaces to size bytes.
func ask(id, size int) []byte {
	b := fmt.Appendf(nil, `{"id":%d,"ping":{}}`, id)
	return append(b, bytes.Repeat([]byte(" "), max(0, size-len(b)))...)
}

// What a client sends, in short words, for there are many of them.
const (
	cont, txt, bin     = wstest.Cont, wstest.Text, wstest.Binary
	clos, ping_, pong_ = wstest.Close, wstest.Ping, wstest.Pong
	fin, rsv1          = wstest.Fin, wstest.RSV1
)

var (
	clientFrame, wideFrame, unmasked, closing = wstest.ClientFrame, wstest.WideFrame, wstest.Unmasked, wstest.ClosingFrame
)

// split sends b one byte a write.
func split(b []byte) [][]byte {
	var all [][]byte
	for i := range b {
		all = append(all, b[i:i+1])
	}
	return all
}

// rfcPeer reads what the gateway sends, and holds every frame of it against
// section 5.
type rfcPeer struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

const rfcRequest = "GET /v1/ws HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"

func rfcDial(t *testing.T, addr, request string) (*rfcPeer, string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience)) // a failure shows in the reads
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		t.Fatal(err)
	}
	p := &rfcPeer{t, conn, bufio.NewReader(conn)}
	var head strings.Builder
	for !strings.HasSuffix(head.String(), "\r\n\r\n") {
		b, err := p.r.ReadByte()
		if err != nil {
			t.Fatalf("after %q: %v", head.String(), err)
		}
		head.WriteByte(b)
	}
	return p, head.String()
}

// next tells the next frame, or why there is none.
func (p *rfcPeer) next() string {
	p.t.Helper()
	head := make([]byte, 2)
	if _, err := io.ReadFull(p.r, head); err != nil {
		return ended(err)
	}
	if head[0]&0x70 != 0 {
		p.t.Errorf("5.2: a frame with reserved bits: %x", head)
	}
	if head[1]&0x80 != 0 {
		p.t.Errorf("5.1: a server must not mask: %x", head)
	}
	op, final := head[0]&0x0f, head[0]&fin != 0
	size := uint64(head[1])
	long := make([]byte, 8)
	switch size {
	case 126:
		_, _ = io.ReadFull(p.r, long[6:])
		if size = binary.BigEndian.Uint64(long); size < 126 {
			p.t.Errorf("5.2: length %d in 2 bytes", size)
		}
	case 127:
		_, _ = io.ReadFull(p.r, long)
		if size = binary.BigEndian.Uint64(long); size <= 0xFFFF {
			p.t.Errorf("5.2: length %d in 8 bytes", size)
		}
	}
	if op >= 8 && (size > 125 || !final) {
		p.t.Errorf("5.5: a control frame of %d bytes, final %v", size, final)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(p.r, payload); err != nil {
		return ended(err)
	}
	switch op {
	case txt:
		if !utf8.Valid(payload) {
			p.t.Errorf("5.6: text that is not UTF-8: %q", payload)
		}
		var f struct {
			ID    int
			Pong  *struct{}
			Error *struct{ Code string }
		}
		if err := json.Unmarshal(payload, &f); err != nil {
			return fmt.Sprintf("text %q", payload)
		}
		if f.Error != nil {
			return "error " + f.Error.Code
		}
		return text(f.ID)
	case bin:
		return fmt.Sprintf("binary %x", payload)
	case ping_:
		return "ping"
	case pong_:
		return pong(string(payload))
	case clos:
		if len(payload) < 2 {
			return fmt.Sprintf("close %x", payload)
		}
		if !utf8.Valid(payload[2:]) {
			p.t.Errorf("5.5.1: a reason that is not UTF-8: %q", payload[2:])
		}
		return closed(int(binary.BigEndian.Uint16(payload)))
	}
	return fmt.Sprintf("opcode %x", op)
}

func ended(err error) string {
	if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		return "silence"
	}
	return "end"
}

func TestRFC6455(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxMessage, c.FrameRate = 256<<10, 100_000 })
	var cases []rfcCase
	for _, group := range [][]rfcCase{lengthCases(), fragmentCases(), utf8Cases(), controlCases(), ruleCases(), closeCases()} {
		cases = append(cases, group...)
	}
	if len(cases) < 100 {
		t.Errorf("%d cases, want 100 at least", len(cases))
	}
	seen := map[string]bool{}
	for _, tt := range cases {
		name := tt.section + " " + tt.name
		if seen[name] {
			t.Errorf("two cases are called %q", name)
		}
		seen[name] = true
		t.Run(name, func(t *testing.T) { tt.run(t, r.gw.Addr()) })
	}
	eventually(t, "every connection is gone", func() bool { return testutil.ToFloat64(r.gw.server.metrics.connections) == 0 })
}

func (tt rfcCase) run(t *testing.T, addr string) { tt.ask(t, addr, rfcRequest) }

func (tt rfcCase) ask(t *testing.T, addr, request string) {
	p, head := rfcDial(t, addr, request)
	if !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		t.Fatalf("handshake: %q", head)
	}
	if have := p.next(); have != text(0) { // welcome
		t.Fatalf("first frame: %s", have)
	}
	for _, b := range tt.send {
		if _, err := p.conn.Write(b); err != nil && tt.end != ends {
			t.Fatalf("write: %v", err)
		}
	}
	if tt.end == halfClose {
		_ = p.conn.(*net.TCPConn).CloseWrite() // what follows shows it
	}
	for i, want := range tt.want {
		if have := p.next(); have != want {
			t.Fatalf("frame %d: have %s, want %s", i+1, have, want)
		}
	}
	switch tt.end {
	case staysOpen:
		if _, err := p.conn.Write(clientFrame(fin|txt, ask(4711, 0))); err != nil {
			t.Fatal(err)
		}
		if have := p.next(); have != text(4711) {
			t.Errorf("the connection should go on, have %s", have)
		}
	case ends, halfClose:
		if have := p.next(); have != "end" {
			t.Errorf("the gateway should close the socket (7.1.1), have %s", have)
		}
	}
	p.conn.Close()
}
