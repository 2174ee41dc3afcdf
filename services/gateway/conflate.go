package gateway

import (
	"slices"

	"github.com/pollcast/pollcast/services/gateway/hub"
)

// A connection with delivery "latest" whose socket is full leaves its feed: it
// keeps only its place (hub.Pull). When its socket takes more, it gets the newest
// event of every topic that changed since, and the freshness that changed since.
// When there is nothing of that, it is back in the feed.

// conflate takes a connection out of its feed. Owner's.
func (c *conn) conflate() {
	if c.pulling != nil || !c.cur.Placed() || c.bounded {
		return
	}
	mark := c.mark()
	if c.mid > 0 && len(c.priv) == 0 {
		c.priv = append(c.priv, slices.Clone(c.cur.Bytes()[:c.mid])) // the rest of that frame
		c.owe(c.mid)
	}
	c.pulling = &hub.Pull{Feed: c.reading.Load(), Seen: mark}
	c.cur = hub.Cursor{}
	c.skipping.Store(true)
	c.reading.Store(nil)
	c.gw.metrics.conflations.Inc()
}

// mark is how far the client is in its feed, with the frame that is partly sent.
// Owner's.
func (c *conn) mark() hub.Mark {
	partly := c.mid
	if len(c.priv) > 0 {
		partly = 0 // that frame is not of the feed
	}
	b, mark := c.cur.Passed(partly)
	for len(b) > 0 {
		n := frameLen(c.format, b)
		if seq, isEvent := eventSeq(c.format, b[:n]); isEvent {
			mark.Seq = seq
		}
		b = b[n:]
	}
	return mark
}

// pullNext gives a conflated connection its next frames, or puts it back into
// its feed when there are none. Owner's.
func (c *conn) pullNext() {
	var frames []byte
	known, waits := false, false
	c.gw.hub.With(func(v *hub.View) {
		if waits = c.attention.Load(); waits { // it may have to leave the feed at an earlier place
			return
		}
		p := c.pulling
		if frames, known = v.Newest(p, 0); known && len(frames) == 0 {
			c.pulling = nil
			c.cur, c.pos = v.Tip(p.Feed)
			c.sent.Store(c.pos)
			c.reading.Store(p.Feed)
			c.skipping.Store(false)
		}
	})
	if !waits {
		c.pulled(frames, known)
	}
}

// pullUpTo gives a conflated connection its frames up to a position, after
// which it goes to another feed. Owner's.
func (c *conn) pullUpTo(seq uint64) {
	var frames []byte
	known := false
	c.gw.hub.With(func(v *hub.View) { frames, known = v.Newest(c.pulling, seq) })
	c.pulling = nil
	c.skipping.Store(false)
	c.pulled(frames, known)
}

// pulled queues the frames of a pull. If deletions that its client has not seen
// are no longer known, the connection is to be closed. Owner's.
func (c *conn) pulled(frames []byte, known bool) {
	if !known {
		c.pulling = nil
		c.forgotten = true // drain closes it
		return
	}
	if len(frames) > 0 {
		c.priv = append(c.priv, frames)
		c.owe(len(frames))
	}
}
