package conn

import (
	"context"
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/pollcast/pollcast/pkg/wire"
)

const (
	// passBytes is what one connection gets before the next has its turn.
	passBytes = 256 << 10
	// writeWait is how long a full socket may take nothing at all.
	writeWait = 10 * time.Second
	// blockedWrite is how long a write takes that had to wait for the client.
	blockedWrite = 100 * time.Millisecond
	// CloseLimit is how long closing may take in all, with what is sent before
	// the close frame.
	CloseLimit = 10 * time.Second
)

// A job is one thing for a writer to look at; exactly one field besides what
// is set.
type job struct {
	group *group // it has grown
	conn  *Conn
	what  jobKind
}

type jobKind uint8

const (
	jobFlush  jobKind = iota // the connection has something to send
	jobMove                  // it goes to another feed
	jobReturn                // its own goroutine gives it back
	jobLeave                 // it is gone
)

// A Writer is one goroutine that writes to the sockets of its connections and
// never waits for one: a socket that takes no more is handed to a goroutine of
// its own (drain) until it has caught up.
//
// Its queue holds at most one job per group, and per connection one of each
// kind and one move per subscribe.
type Writer struct {
	index  int // among the writers, and of its group in a feed
	host   *Host
	drains sync.WaitGroup

	mu     sync.Mutex
	queue  []job
	spare  []job
	wakeup chan struct{}

	wrote int // bytes, ever

	// For the closure given to RawConn.Write, made once.
	buf   []byte
	n     int
	err   error
	rawFn func(fd uintptr) bool
}

func NewWriter(index int, host *Host) *Writer {
	w := &Writer{index: index, host: host, wakeup: make(chan struct{}, 1)}
	w.rawFn = func(fd uintptr) bool {
		for {
			w.n, w.err = send(fd, w.buf)
			if w.err != syscall.EINTR {
				return true // never wait here
			}
		}
	}
	return w
}

func (w *Writer) push(j job) {
	w.mu.Lock()
	w.queue = append(w.queue, j)
	first := len(w.queue) == 1
	w.mu.Unlock()
	if first {
		select {
		case w.wakeup <- struct{}{}:
		default:
		}
	}
}

// wake has a connection looked at.
func (w *Writer) wake(c *Conn) {
	if !c.queued.Swap(true) {
		w.push(job{conn: c, what: jobFlush})
	}
}

// Run writes until ctx ends, and then waits for the goroutines of its own.
func (w *Writer) Run(ctx context.Context) {
	for {
		if w.turn() {
			continue
		}
		select {
		case <-w.wakeup:
		case <-ctx.Done():
			w.drains.Wait()
			return
		}
	}
}

// turn does what is in the queue; false when there is nothing.
func (w *Writer) turn() bool {
	w.mu.Lock()
	jobs := w.queue
	w.queue = w.spare[:0]
	w.mu.Unlock()
	for i := range jobs {
		w.do(jobs[i])
		jobs[i] = job{}
	}
	w.spare = jobs
	return len(jobs) > 0
}

func (w *Writer) do(j job) {
	if j.group != nil {
		w.walk(j.group)
		return
	}
	c := j.conn
	switch j.what {
	case jobFlush:
		c.queued.Store(false)
	case jobMove:
		w.regroup(c, c.group(c.feed.Load()))
	case jobReturn:
		c.out.away = false
		c.draining.Store(false)
	case jobLeave:
		w.regroup(c, nil)
		return
	}
	if !c.out.away {
		w.flush(c)
	}
}

// flush sends a connection what it is behind, as far as its socket takes it.
func (w *Writer) flush(c *Conn) {
	for budget := passBytes; budget > 0; {
		b := c.out.next()
		c.out.noteOwned()
		if len(b) == 0 {
			if c.out.finished() {
				c.linger()
			}
			return
		}
		if c.Raw == nil {
			w.handOff(c)
			return
		}
		w.buf, w.n, w.err = b, 0, nil
		err := c.Raw.Write(w.rawFn)
		w.buf = nil
		if err == nil {
			err = w.err
		}
		if w.n > 0 {
			w.host.SentBytes.Add(float64(w.n))
			c.out.advance(b, w.n)
			budget -= w.n
			w.wrote += w.n
		}
		switch {
		case errors.Is(err, syscall.EAGAIN) || err == nil && w.n < len(b):
			w.handOff(c)
			return
		case err != nil:
			c.Fail()
			return
		}
	}
	w.wake(c)
}

// handOff gives a connection whose socket is full to a goroutine of its own.
func (w *Writer) handOff(c *Conn) {
	c.out.away = true
	c.draining.Store(true)
	w.host.Blocked.Inc()
	w.drains.Go(func() {
		w.drain(c)
		w.host.Blocked.Dec()
		w.push(job{conn: c, what: jobReturn})
	})
}

// drain writes to a socket that takes little, until it has caught up.
func (w *Writer) drain(c *Conn) {
	for {
		closed := c.closed.Load()
		switch {
		case closed != 0:
			c.out.cutLoose()
		case c.latest.Load():
			c.out.conflate()
		}
		b := c.out.next()
		c.out.noteOwned()
		if c.out.forgotten {
			c.out.forgotten = false
			c.Close(wire.CloseSlowConsumer, "")
			continue
		}
		if len(b) == 0 {
			return
		}
		start := time.Now()
		until := start.Add(writeWait)
		if closed != 0 {
			until = time.Unix(0, closed).Add(CloseLimit)
		}
		_ = c.Socket.SetWriteDeadline(until) // a dead socket shows in Write
		if closed == 0 && c.closed.Load() != 0 {
			continue // close may have set its deadline before this one
		}
		n, err := c.Socket.Write(b)
		if n > 0 {
			w.host.SentBytes.Add(float64(n))
			c.out.advance(b, n)
			if now := time.Now(); now.Sub(start) > blockedWrite {
				c.heard.Store(now.UnixNano()) // the socket was full and took more: the client reads
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && closed == 0 && (n > 0 || c.latest.Load() || c.closed.Load() != 0):
			// It reads slowly, keeps nothing waiting, or close wants its frame sent.
		default:
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.note(wire.CloseSlowConsumer)
			}
			c.Fail()
			return
		}
	}
}
