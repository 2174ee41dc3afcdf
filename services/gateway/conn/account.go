package conn

import (
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/services/gateway/hub"
	"github.com/pollcast/pollcast/services/gateway/memory"
)

// An Account is what one connection costs and how far it is behind. The sweep adds
// the accounts up, and the status shows those that cost most.
type Account struct {
	entered atomic.Uint64            // where in the feed it goes to it begins
	reading atomic.Pointer[hub.Feed] // the feed that sent belongs to
	sent    atomic.Uint64            // bytes of it

	private atomic.Int64 // bytes that wait for this connection alone
	taken   atomic.Int64 // of those, all that were ever sent or dropped
	extra   atomic.Int64 // its subscriptions, and the message that it is sending
	closed  atomic.Int64 // when close was called; 0: it was not

	loose    atomic.Bool // since then, it holds no more than the rest of a frame
	skipping atomic.Bool // it is out of its feed (conflate.go)

	// Where it stands in what its feeds allocated: the one that it reads, and the
	// one that it goes to.
	own, enteredOwn atomic.Uint64

	// The mark is what there was to send at behind; who has not got it by
	// maxLagTime later is too old.
	behind    atomic.Int64 // 0: its socket takes what there is
	markFeed  *hub.Feed    // this and the rest: the sweep's
	markPos   uint64
	markTaken int64
}

// owe counts private bytes that were queued.
func (c *Conn) owe(n int) {
	c.private.Add(int64(n))
	c.host.Budget.Grow(int64(n))
}

// paid counts private bytes that were sent or dropped.
func (c *Conn) paid(n int) {
	c.private.Add(-int64(n))
	c.taken.Add(int64(n))
}

// Age is for how long the connection has been behind: what there was to send so
// long ago is not yet sent. The sweep's.
func (c *Conn) Age(now int64) time.Duration {
	if !c.draining.Load() {
		if c.behind.Load() != 0 { // a store to each connection would cost more than the rest of the sweep
			c.behind.Store(0)
			c.markFeed = nil
		}
		return 0
	}
	if since := c.behind.Load(); since != 0 && !c.passedMark() {
		return time.Duration(now - since)
	}
	if c.markFeed = c.reading.Load(); c.markFeed == nil {
		c.markFeed = c.feed.Load()
	}
	c.markPos, c.markTaken = 0, c.taken.Load()+c.private.Load()
	if c.markFeed != nil {
		c.markPos = c.markFeed.End()
	}
	c.behind.Store(now)
	return 0
}

func (c *Conn) passedMark() bool {
	if c.taken.Load() < c.markTaken {
		return false
	}
	f := c.reading.Load()
	switch f {
	case nil: // not arrived, or conflated
		return c.markFeed == nil
	case c.markFeed:
		return c.sent.Load() >= c.markPos
	}
	return true // it went on to another feed
}

// lags returns how many bytes the connection has yet to get of the feed that it
// reads, and of the one that it goes to.
func (c *Conn) lags() (reading *hub.Feed, of uint64, to *hub.Feed, ahead uint64) {
	reading, to = c.reading.Load(), c.feed.Load()
	if reading != nil {
		of = memory.Less(reading.End(), c.sent.Load())
	}
	if to != nil && to != reading && !c.skipping.Load() {
		ahead = memory.Less(to.End(), c.entered.Load())
	}
	return reading, of, to, ahead
}

// Lag is how many bytes of its feeds the connection has yet to get.
func (c *Conn) Lag() uint64 {
	_, of, _, ahead := c.lags()
	return of + ahead
}

// Charge counts bytes that the connection takes beside its frames: its
// subscriptions, and the message that its client is sending.
func (c *Conn) Charge(n int64) {
	c.extra.Add(n)
	if n > 0 {
		c.host.Budget.Grow(n)
	}
}

// Extra returns the bytes of Charge.
func (c *Conn) Extra() int64 { return c.extra.Load() }

// Private returns the bytes that wait for this connection alone.
func (c *Conn) Private() int64 { return c.private.Load() }

// BehindSince returns since when the connection has been behind, in unix
// nanoseconds; 0: its socket takes what there is.
func (c *Conn) BehindSince() int64 { return c.behind.Load() }

// Loose reports whether a closing connection holds no more than the rest of a
// frame.
func (c *Conn) Loose() bool { return c.loose.Load() || c.gone.Load() }

// LetGo reports whether the connection is closed for what it costs: it holds
// at most the rest of a frame then.
func (c *Conn) LetGo() bool {
	if c.closed.Load() == 0 {
		return false
	}
	return c.mail.costly()
}

// Keeps notes how much of each feed the connection keeps alive.
func (c *Conn) Keeps(kept map[*hub.Feed]uint64) {
	reading, of, to, ahead := c.lags()
	if of > 0 {
		kept[reading] = max(kept[reading], memory.Less(reading.Owned(), c.own.Load()))
	}
	if ahead > 0 {
		kept[to] = max(kept[to], memory.Less(to.Owned(), c.enteredOwn.Load()))
	}
}

// Cost is what closing the connection may free, in bytes. One whose socket
// takes what there is costs nothing by being behind.
func (c *Conn) Cost() int64 {
	n := c.private.Load() + c.extra.Load()
	if c.draining.Load() {
		n += int64(c.Lag())
	}
	return n
}
