package gateway

import (
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/services/gateway/hub"
)

// An account is what one connection costs and how long it has been behind. The
// sweep adds the accounts up (budget.go), and /status shows the dearest.
type account struct {
	private atomic.Int64 // bytes that wait for this connection alone
	taken   atomic.Int64 // of those, all that were ever sent or dropped
	extra   atomic.Int64 // its subscriptions, and the message that it is sending
	begun   int64        // unix nanoseconds
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
func (c *conn) owe(n int) {
	c.private.Add(int64(n))
	c.gw.budget.Grow(int64(n))
}

// holdsOwn notes where it stands in what its feed allocated. Owner's.
func (c *conn) holdsOwn() {
	if own := c.cur.Owned(); own != c.own.Load() {
		c.own.Store(own)
	}
}

// paid counts private bytes that were sent or dropped.
func (c *conn) paid(n int) {
	c.private.Add(-int64(n))
	c.taken.Add(int64(n))
}

// age is for how long the connection has been behind: what there was to send so
// long ago is not yet sent. The sweep's.
func (c *conn) age(now int64) time.Duration {
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

func (c *conn) passedMark() bool {
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

// lags are how many bytes the connection has yet to get of the feed that it
// reads, and of the one that it goes to.
func (c *conn) lags() (reading *hub.Feed, of uint64, to *hub.Feed, ahead uint64) {
	reading, to = c.reading.Load(), c.feed.Load()
	if reading != nil {
		of = less(reading.End(), c.sent.Load())
	}
	if to != nil && to != reading && !c.skipping.Load() {
		ahead = less(to.End(), c.entered.Load())
	}
	return reading, of, to, ahead
}

// lag is how many bytes of its feeds the connection has yet to get.
func (c *conn) lag() uint64 {
	_, of, _, ahead := c.lags()
	return of + ahead
}

func less(a, b uint64) uint64 {
	if a > b {
		return a - b
	}
	return 0
}
