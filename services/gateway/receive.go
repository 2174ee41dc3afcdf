package gateway

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/pollcast/pollcast/services/gateway/conn"
)

// messageWait is how long a client may take for one message, from its first
// byte to its last, with control frames in between.
const messageWait = 10 * time.Second

// farewellBytes bounds what is read and thrown away of a client that broke the
// rules, so that the close frame reaches it before a reset does.
const farewellBytes = 4 << 20

// readBuffers are for reads that return bytes: a client that sends nothing has
// none.
var readBuffers = sync.Pool{New: func() any { return new([4 << 10]byte) }}

// A gulp reads from a socket what is there. While it waits, there is little on
// the goroutine's stack, which therefore stays as small as stacks are.
type gulp struct {
	buf *[4 << 10]byte // nil while it waits
	n   int
	err error
}

// try is for RawConn.Read.
func (g *gulp) try(fd uintptr) bool {
	g.buf = readBuffers.Get().(*[4 << 10]byte)
	for {
		g.n, g.err = syscall.Read(int(fd), g.buf[:])
		if g.err != syscall.EINTR {
			break
		}
	}
	if g.err == syscall.EAGAIN {
		g.drop()
		return false
	}
	return true
}

func (g *gulp) drop() {
	readBuffers.Put(g.buf)
	g.buf = nil
}

// receive passes what the client sends to hear, until hear returns false (no error)
// or the client cannot be read any more.
func (c *session) receive(hear func(b []byte) bool) error {
	g := new(gulp)
	try := g.try
	for {
		if c.Raw != nil {
			if err := c.Raw.Read(try); err != nil {
				return err
			}
		} else {
			g.buf = readBuffers.Get().(*[4 << 10]byte)
			g.n, g.err = c.Socket.Read(g.buf[:])
		}
		more := true
		if g.n > 0 {
			more = hear(g.buf[:g.n])
		}
		err := g.err
		if err == nil && g.n <= 0 {
			err = io.EOF
		}
		g.drop()
		if !more {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// hurry gives a client that has begun a message messageWait to end it. ended
// reports that it has ended another one since the last call.
func (c *session) hurry(ended bool) {
	unfinished := c.in.Unfinished()
	switch {
	case unfinished && (ended || !c.hurried):
		c.readBy(time.Now().Add(messageWait))
	case !unfinished && c.hurried:
		c.readBy(time.Time{})
	}
	c.hurried = unfinished
	if more := int64(c.in.Size()) - c.held; more != 0 {
		c.held += more
		c.Charge(more)
	}
}

// readBy sets until when the client's next bytes must come. Closing has a
// deadline of its own.
func (c *session) readBy(t time.Time) {
	if c.ClosingSince() == 0 {
		_ = c.Socket.SetReadDeadline(t) // a dead socket shows in Read
	}
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// seeOff gives the client of a closing connection the time to read the close frame.
func (c *session) seeOff() {
	_ = c.Socket.SetReadDeadline(time.Now().Add(conn.CloseWait))
	_, _ = io.CopyN(io.Discard, c.Socket, farewellBytes) // ends by EOF, deadline or bound: all the same
	c.AwaitFarewell()
}
