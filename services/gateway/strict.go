package gateway

import (
	"bufio"
	"encoding/binary"
	"net"
	"net/http"
	"time"

	"github.com/pollcast/pollcast/pkg/wire"
)

// frameError is a breach of RFC 6455 in what a client sends, in words for the
// close frame.
type frameError string

func (e frameError) Error() string { return "websocket: " + string(e) }

// Breaches that the WebSocket library lets pass, or answers as something else.
const (
	errLongLength = frameError("length in more bytes than it needs") // section 5.2: the minimal number of bytes MUST be used
	errHugeLength = frameError("length with its highest bit set")    // section 5.2: the most significant bit MUST be 0
	errShortClose = frameError("close frame with half a code")       // section 5.5.1: a body MUST begin with 2 bytes of code
)

// A strictConn is what the WebSocket library has of a connection's socket. It
// follows the frames that a client sends, and ends reading at the first with
// such a breach; it changes no byte. And it lets the library send nothing.
type strictConn struct {
	net.Conn
	head [10]byte // of the frame that is coming in
	have uint8    // bytes of head
	skip uint64   // bytes of mask and payload that follow
	bad  error    // for all reads from now on
	// owner is the connection, from when its handshake is over. From then on its
	// writer alone may write, and sets the deadlines.
	owner *conn
}

// Write takes from the library what it would send by itself, which after the
// handshake is a close frame only, and has it sent in its turn.
func (c *strictConn) Write(p []byte) (int, error) {
	switch {
	case c.owner == nil:
		return c.Conn.Write(p)
	case len(p) >= 4 && p[0] == opClose:
		c.owner.close(wire.CloseCode(binary.BigEndian.Uint16(p[2:])), string(p[4:]))
	}
	return len(p), nil
}

// SetWriteDeadline is what the library does before it writes.
func (c *strictConn) SetWriteDeadline(t time.Time) error {
	if c.owner == nil {
		return c.Conn.SetWriteDeadline(t)
	}
	return nil
}

func (c *strictConn) Read(p []byte) (int, error) {
	if c.bad != nil {
		return 0, c.bad
	}
	n, err := c.Conn.Read(p)
	if good := c.follow(p[:n]); good < n {
		if good == 0 {
			return 0, c.bad
		}
		return good, nil // the frames before it count
	}
	return n, err
}

// follow returns how many bytes of p come before a breach.
func (c *strictConn) follow(p []byte) int {
	for i := 0; i < len(p); {
		if c.skip > 0 {
			n := min(c.skip, uint64(len(p)-i))
			c.skip -= n
			i += int(n)
			continue
		}
		c.head[c.have] = p[i]
		c.have++
		if !c.complete() {
			i++
			continue
		}
		if c.bad = c.check(); c.bad != nil {
			return i
		}
		i++
	}
	return len(p)
}

// complete reports whether head holds all that comes before the mask.
func (c *strictConn) complete() bool {
	if c.have < 2 {
		return false
	}
	switch c.head[1] & 0x7f {
	case 126:
		return c.have == 4
	case 127:
		return c.have == 10
	}
	return true
}

// check looks at a complete head and gets ready for what follows.
func (c *strictConn) check() error {
	size := uint64(c.head[1] & 0x7f)
	switch size {
	case 126:
		if size = uint64(binary.BigEndian.Uint16(c.head[2:])); size < 126 {
			return errLongLength
		}
	case 127:
		size = binary.BigEndian.Uint64(c.head[2:])
		if size>>63 != 0 {
			return errHugeLength
		}
		if size <= 0xFFFF {
			return errLongLength
		}
	}
	if c.head[0]&0x0f == opClose&0x0f && size == 1 {
		return errShortClose
	}
	c.have, c.skip = 0, size
	if c.head[1]&0x80 != 0 {
		c.skip += 4 // cannot overflow: the highest bit is 0
	}
	return nil
}

// strictWriter hands out its connection as a strictConn.
type strictWriter struct{ http.ResponseWriter }

// Hijack implements http.Hijacker.
func (w strictWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	return &strictConn{Conn: nc}, rw, nil
}
