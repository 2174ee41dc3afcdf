package gateway

import (
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/hub"
)

// isClosing reports whether close was called.
func (c *conn) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing != nil
}

// note remembers why the connection ends, where no close frame can say it.
func (c *conn) note(code wire.CloseCode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing == nil {
		c.closing, c.code, c.over = closeFrame(c.format, code, code.String()), code, make(chan struct{})
		c.closed.Store(time.Now().UnixNano())
	}
}

// linger waits for the client's answer to the close frame (the reader does)
// and tells it that nothing more comes.
func (c *conn) linger() {
	if t, ok := c.nc.(*net.TCPConn); ok {
		_ = t.CloseWrite() // the reader's deadline ends it if this fails
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(closeWait))
	c.sentAll()
}

// cutLoose lets go of what a closing connection will not be sent any more, so
// that it holds no memory while its client takes the rest of a frame. Owner's,
// who holds the mutex.
func (c *conn) cutLoose() {
	dropped := 0
	if len(c.priv) == 0 && c.cur.Placed() {
		c.last = c.mark().Seq
		if c.mid > 0 {
			c.priv = [][]byte{slices.Clone(c.cur.Bytes()[:c.mid])}
			c.owe(c.mid)
		}
	}
	c.cur, c.bounded, c.pulling = hub.Cursor{}, false, nil
	c.loose.Store(true)
	if c.costly() && !c.ended {
		for _, b := range c.priv {
			dropped += len(b)
		}
		if dropped -= c.mid; dropped > 0 {
			rest := c.priv[0][:c.mid]
			if c.priv = nil; c.mid > 0 {
				c.priv = [][]byte{slices.Clone(rest)}
			}
		}
		dropped += len(c.control)
		c.control = nil
	}
	for i := range c.steps {
		dropped += len(c.steps[i].data)
	}
	c.steps = nil
	c.paid(dropped)
}

// costly reports whether the connection is closed because of what it costs.
func (c *conn) costly() bool {
	return c.code == wire.CloseSlowConsumer || c.code == wire.CloseOverloaded
}

// lastFrame is the close frame. A client that lived on its feed is told from
// where it can resume. Owner's, who holds the mutex.
func (c *conn) lastFrame() []byte {
	if c.code == wire.CloseSlowConsumer && c.last > 0 && !c.latest.Load() {
		return closeFrame(c.format, c.code, fmt.Sprintf("%s; resume since seq %d", c.code, c.last))
	}
	return c.closing
}
