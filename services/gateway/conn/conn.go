package conn

import (
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/frame"
	"github.com/pollcast/pollcast/services/gateway/hub"
	"github.com/pollcast/pollcast/services/gateway/memory"
)

// CloseWait is how long a closing connection may take to answer.
const CloseWait = 3 * time.Second

// sendBuffer is how many bytes the kernel may hold for a client. Its own choice
// would be megabytes for a client that does not read: no budget counts them, and
// they are out of date when they are read.
const sendBuffer = 256 << 10

// A Host is what connections share. Its fields are fixed.
type Host struct {
	Hub         *hub.Hub
	Budget      *memory.Budget
	Conflations hub.Counter
	SentBytes   hub.Counter
	Blocked     interface {
		Inc()
		Dec()
	} // connections whose socket is full
}

// A Conn is one connection of a client. Its frames go out in this order: control
// frames and answers first, at the next frame boundary; then the steps of its
// subscriptions, of which the last is a place in a feed. Its exported methods may
// be called by any goroutine.
type Conn struct {
	ID     uint64
	Name   string // for logs
	Socket net.Conn
	Raw    syscall.RawConn // nil where the socket has none (TLS, pipes)
	Format hub.Format
	Begun  time.Time

	host   *Host
	writer *Writer

	Account
	out  out
	mail mail

	feed     atomic.Pointer[hub.Feed] // the feed it goes to; nil before the first subscribe
	latest   atomic.Bool              // delivery: skip rather than close
	queued   atomic.Bool              // a jobFlush is in the writer's queue
	draining atomic.Bool              // drain has it: its socket is full
	heard    atomic.Int64             // unix nanoseconds of the last sign of life
	gone     atomic.Bool
}

// New makes a connection of a socket, which one of the writers serves.
func New(host *Host, id uint64, name string, socket net.Conn, fm hub.Format, w *Writer) *Conn {
	c := &Conn{ID: id, Name: name, Socket: socket, Format: fm, Begun: time.Now(), host: host, writer: w}
	c.out.c = c
	c.Hear(c.Begun)
	if t, ok := socket.(*net.TCPConn); ok {
		_ = t.SetWriteBuffer(sendBuffer) // the kernel's own choice otherwise
	}
	if sc, ok := socket.(syscall.Conn); ok {
		c.Raw, _ = sc.SyscallConn() // nil on error: drain then writes
	}
	return c
}

// Feed returns the feed that the connection goes to; nil before its first
// subscription.
func (c *Conn) Feed() *hub.Feed { return c.feed.Load() }

// Hear notes a sign of life of the client.
func (c *Conn) Hear(now time.Time) { c.heard.Store(now.UnixNano()) }

// Heard returns when the client last gave a sign of life, in unix nanoseconds.
func (c *Conn) Heard() int64 { return c.heard.Load() }

// Latest reports whether the client gets the latest values and skips others.
func (c *Conn) Latest() bool { return c.latest.Load() }

// SetLatest sets what Latest reports.
func (c *Conn) SetLatest(on bool) { c.latest.Store(on) }

// Blocked reports whether the socket is full.
func (c *Conn) Blocked() bool { return c.draining.Load() }

// Gone reports whether the socket is closed.
func (c *Conn) Gone() bool { return c.gone.Load() }

// Say queues a frame, to go out at the next frame boundary.
func (c *Conn) Say(f *wire.ServerFrame) { c.Send(frame.Encode(c.Format.Plain(), f)) }

// Send queues whole frames, to go out at the next frame boundary. A client that
// does not read its answers is closed.
func (c *Conn) Send(frames []byte) {
	n, ok := c.mail.control(frames)
	c.owe(n)
	if !ok {
		c.Close(wire.CloseSlowConsumer, "answers are not read")
		return
	}
	c.writer.wake(c)
}

// GoTo notes the feed that the connection goes to, and its place there; nil is
// none. It is called with the hub's View, so that feed and place belong together.
func (c *Conn) GoTo(_ *hub.View, f *hub.Feed, cur hub.Cursor, pos uint64) {
	if f != nil {
		c.entered.Store(pos)
		c.enteredOwn.Store(cur.Owned())
	}
	c.feed.Store(f)
}

// Queue queues steps. The first, if the connection is in a feed, is the end of
// that feed: it must be queued with the hub's View, or what is appended meanwhile
// would be sent twice. The others may come later. Move is called after that.
func (c *Conn) Queue(steps ...Step) { c.owe(c.mail.queue(steps)) }

// Move has the writer take in the steps.
func (c *Conn) Move() { c.writer.push(job{conn: c, what: jobMove}) }

// Close sends what is queued and then a close frame; nothing follows it. Only the
// first call counts. The socket is closed when the client has answered, or after
// CloseWait.
func (c *Conn) Close(code wire.CloseCode, text string) {
	if text == "" {
		text = code.String()
	}
	if !c.mail.close(frame.Close(c.Format, code, text), code) {
		return
	}
	c.closed.Store(time.Now().UnixNano())
	if c.draining.Load() {
		// It wakes drain, which then finds the close frame; a dead socket ends it too.
		_ = c.Socket.SetWriteDeadline(time.Unix(1, 0))
	}
	c.writer.wake(c)
}

// CloseByClient answers the client's close frame: it is the client that ends the
// connection.
func (c *Conn) CloseByClient(code wire.CloseCode, text string) {
	if !c.IsClosing() {
		c.Close(code, text)
		c.mail.setCode(0)
	}
}

// note remembers why the connection ends where no close frame can be sent.
func (c *Conn) note(code wire.CloseCode) {
	if c.mail.close(frame.Close(c.Format, code, code.String()), code) {
		c.closed.Store(time.Now().UnixNano())
	}
}

// IsClosing reports whether Close was called.
func (c *Conn) IsClosing() bool { return c.mail.isClosing() }

// Code returns the code that the connection was closed with; 0 if the client ended
// it.
func (c *Conn) Code() wire.CloseCode { return c.mail.closeCode() }

// ClosingSince returns when Close was called, in unix nanoseconds; 0: it was not.
func (c *Conn) ClosingSince() int64 { return c.closed.Load() }

// Fail ends a connection whose socket cannot be used any more.
func (c *Conn) Fail() {
	c.gone.Store(true)
	_ = c.Socket.Close() // the reader sees it and cleans up
	c.mail.sent()
}

// Leave takes the connection out of its feed, once its socket is closed.
func (c *Conn) Leave() {
	c.host.Hub.With(func(v *hub.View) {
		if f := c.feed.Swap(nil); f != nil {
			v.Leave(f)
		}
	})
	c.writer.push(job{conn: c, what: jobLeave})
}

// linger waits for the client's answer to the close frame (the reader does) and
// shows the client that nothing more comes.
func (c *Conn) linger() {
	if t, ok := c.Socket.(*net.TCPConn); ok {
		_ = t.CloseWrite() // the reader's deadline ends it if this fails
	}
	_ = c.Socket.SetReadDeadline(time.Now().Add(CloseWait))
	c.mail.sent()
}

// AwaitFarewell waits until the close frame was sent, or cannot be.
func (c *Conn) AwaitFarewell() {
	select {
	case <-c.mail.farewell():
	case <-time.After(CloseWait):
	}
}

// group returns the connection's group in a feed.
func (c *Conn) group(f *hub.Feed) *group {
	if f == nil || c.gone.Load() {
		return nil
	}
	return f.Groups[c.writer.index].(*group)
}
