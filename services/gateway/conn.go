package gateway

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/hub"
	"github.com/pollcast/pollcast/services/gateway/ws"
)

// maxControl bounds the control frames and answers that wait for one
// connection, in bytes. A client that asks faster than it reads the answers is
// closed as a slow consumer.
const maxControl = 64 << 10

// A conn is one connection of a client, WebSocket or SSE. Its frames go out in this order: control
// frames and answers first, at the next frame boundary; then the steps of its
// subscriptions, of which the last is a place in a feed.
//
// Writing is done by whoever owns the conn: its writer or, while its socket is
// full, a goroutine of its own (drain). The owner alone touches the fields
// marked so.
type conn struct {
	id     uint64
	name   string // for logs: id and address
	nc     net.Conn
	raw    syscall.RawConn // nil where the socket has none (TLS, pipes)
	writer *writer
	gw     *server
	format hub.Format

	// Owner's.
	cur     hub.Cursor
	pos     uint64 // bytes of the feed's end that cur has passed
	until   uint64 // cur ends here, if bounded
	bounded bool
	priv    [][]byte  // sent before cur
	mid     int       // bytes left of a frame that is partly sent
	away    bool      // drain has it; known to the writer alone
	ended   bool      // the close frame is in priv: nothing follows
	last    uint64    // where its client can resume, if it is closed as slow
	pulling *hub.Pull // set while it is out of its feed (conflate.go)
	// forgotten: it cannot be conflated further and must be closed.
	forgotten bool

	// group is where the writer finds it when its feed grows; the writer's.
	group *group
	index int

	attention atomic.Bool // something below waits; set last, under mu

	mu      sync.Mutex
	control []byte // whole frames
	steps   []step
	closing []byte // the close frame
	code    wire.CloseCode
	over    chan struct{} // from when closing is set: closed when it was sent, or cannot be

	feed     atomic.Pointer[hub.Feed] // the feed it goes to; nil before the first subscribe
	entered  atomic.Uint64            // where in feed it begins
	reading  atomic.Pointer[hub.Feed] // the feed that sent belongs to
	sent     atomic.Uint64            // mirrors pos, for others to compute the lag
	queued   atomic.Bool              // a jobFlush is in the writer's queue
	heard    atomic.Int64             // unix nanoseconds of the last sign of life
	pinged   atomic.Int64             // of the last ping; 0: none
	draining atomic.Bool              // drain has it, for others
	gone     atomic.Bool

	account
	latest atomic.Bool // delivery: skip rather than close

	// The reader's.
	subs     subscriptions
	in       ws.Reader
	held     int64 // bytes of in that are accounted for
	pace     framePace
	wrong    uint8 // frames that were none
	hurried  bool  // a message must end within messageWait
	seenWait seenWait
}

// A step is what a connection sends next: bytes, the end of the feed it is in,
// or a place in another.
type step struct {
	data  []byte
	until uint64 // place in the feed, and
	seq   uint64 // in the stream
	feed  *hub.Feed
	cur   hub.Cursor
	pos   uint64
}

// say queues a frame, to go out at the next frame boundary.
func (c *conn) say(f *wire.ServerFrame) { c.send(encode(c.format.Plain(), f)) }

// send queues whole frames, to go out at the next frame boundary.
func (c *conn) send(frames []byte) {
	c.mu.Lock()
	if c.closing == nil {
		c.control = append(c.control, frames...)
		c.owe(len(frames))
	}
	over := len(c.control) > maxControl
	c.attention.Store(true)
	c.mu.Unlock()
	if over {
		c.close(wire.CloseSlowConsumer, "answers are not read")
		return
	}
	c.writer.wake(c)
}

// enter queues steps, of which the first, if the connection is in a feed, is the
// end of that: it must be queued under the hub's mutex, or what is appended
// meanwhile would be sent twice. The rest may come later. The caller pushes
// jobMove afterwards.
func (c *conn) enter(steps ...step) {
	c.mu.Lock()
	c.steps = append(c.steps, steps...)
	for i := range steps {
		c.owe(len(steps[i].data))
	}
	c.attention.Store(true)
	c.mu.Unlock()
}

// close sends what is queued and then a close frame; nothing follows it. Only
// the first call counts. The socket is closed when the client has answered, or
// after closeWait.
func (c *conn) close(code wire.CloseCode, text string) {
	c.mu.Lock()
	if c.closing != nil {
		c.mu.Unlock()
		return
	}
	if text == "" {
		text = code.String()
	}
	c.closing, c.code, c.over = closeFrame(c.format, code, text), code, make(chan struct{})
	c.closed.Store(time.Now().UnixNano())
	c.attention.Store(true)
	c.mu.Unlock()
	if c.draining.Load() {
		_ = c.nc.SetWriteDeadline(time.Unix(1, 0)) // wakes drain, which then finds the close frame; a dead socket ends it as well
	}
	c.writer.wake(c)
}

// fail ends a connection whose socket cannot be written to any more.
func (c *conn) fail() {
	c.gone.Store(true)
	_ = c.nc.Close() // the reader sees it and cleans up
	c.sentAll()
}

// sentAll lets the reader of a closing connection go.
func (c *conn) sentAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over == nil {
		return
	}
	select {
	case <-c.over:
	default:
		close(c.over)
	}
}

// next returns what to write next, or nil when there is nothing. Owner's.
func (c *conn) next() []byte {
	for {
		if c.mid > 0 {
			if len(c.priv) > 0 {
				return c.priv[0][:c.mid]
			}
			return c.cur.Bytes()[:c.mid]
		}
		if c.attention.Load() {
			c.attend()
		}
		if len(c.priv) > 0 {
			return c.priv[0]
		}
		if c.pulling != nil {
			if c.pullNext(); c.forgotten {
				return nil
			}
			continue
		}
		b := c.cur.Bytes()
		if c.attention.Load() {
			// Frames appended after a subscribe belong to the feed it moves to.
			continue
		}
		if c.bounded {
			if b = b[:min(uint64(len(b)), c.until-c.pos)]; len(b) == 0 {
				c.cur, c.bounded = hub.Cursor{}, false
				c.attention.Store(true) // the steps behind the end
				continue
			}
		}
		return b
	}
}

// attend takes in what was queued for the connection.
func (c *conn) attend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attention.Store(false)
	if len(c.control) > 0 {
		c.priv = append(c.priv, c.control)
		c.control = nil
	}
	if c.closing != nil {
		if !c.ended {
			c.cutLoose()
			c.ended = true
			c.priv = append(c.priv, c.lastFrame())
			c.owe(len(c.priv[len(c.priv)-1]))
		}
		return
	}
	for len(c.steps) > 0 {
		if c.bounded {
			return // first to the end of the feed it is in
		}
		s := c.steps[0]
		switch {
		case s.feed != nil:
			c.cur, c.pos = s.cur, s.pos
			c.reading.Store(nil)
			c.sent.Store(s.pos)
			c.reading.Store(s.feed)
		case s.data != nil:
			c.priv = append(c.priv, s.data)
		case c.pulling != nil:
			c.mu.Unlock() // the hub's mutex goes before this one
			c.pullUpTo(s.seq)
			c.mu.Lock()
		default:
			c.until, c.bounded = s.until, true
		}
		c.steps = c.steps[1:]
	}
	c.steps = nil
}

// advance counts n bytes of b, which next returned, as sent. Owner's.
func (c *conn) advance(b []byte, n int) {
	at := c.mid // frames begin here, and b ends with one
	c.mid = 0
	if n < len(b) {
		for at < n {
			at += frameLen(c.format, b[at:])
		}
		c.mid = at - n
	}
	if len(c.priv) > 0 {
		c.paid(n)
		if c.priv[0] = c.priv[0][n:]; len(c.priv[0]) == 0 {
			if c.priv = c.priv[1:]; len(c.priv) == 0 {
				c.priv = nil
			}
		}
		return
	}
	c.cur.Skip(n)
	c.pos += uint64(n)
	c.sent.Store(c.pos)
}

// finished reports whether the close frame was sent. Owner's.
func (c *conn) finished() bool { return c.ended && len(c.priv) == 0 }
