package conn

import (
	"sync/atomic"

	"github.com/pollcast/pollcast/services/gateway/hub"
)

// A writer walks the connections of a feed in strides, between which the other
// feeds have theirs: one with ten thousand clients keeps nobody else waiting
// for longer than a stride takes, a fraction of a millisecond.
const (
	strideConns = 64
	strideBytes = 1 << 20
)

// A group is the connections of one feed that one writer serves.
type group struct {
	writer *Writer
	feed   *hub.Feed
	dirty  atomic.Bool  // a walk is under way, or queued
	n      atomic.Int32 // len(conns), for wake

	// The writer's.
	conns   []*Conn
	left    int // of conns, those before are yet to be visited
	walking bool
	end     uint64 // of the feed when the walk began
}

// NewGroup returns the group of the writer's connections in a feed.
func (w *Writer) NewGroup(f *hub.Feed) hub.Group { return &group{writer: w, feed: f} }

// Wake implements hub.Group: it has the group's connections sent what their feed has grown by.
func (g *group) Wake() {
	if g.n.Load() > 0 && !g.dirty.Swap(true) {
		g.writer.push(job{group: g})
	}
}

// walk visits the group's connections from the last to the first, one stride of
// them. A connection that leaves meanwhile gives its place to one that was visited,
// and one that comes is visited by its own job.
func (w *Writer) walk(g *group) {
	if !g.walking {
		g.walking, g.left, g.end = true, len(g.conns), g.feed.End()
	}
	g.left = min(g.left, len(g.conns))
	until := w.wrote + strideBytes
	for n := strideConns; n > 0 && g.left > 0 && w.wrote < until; n-- {
		g.left--
		if c := g.conns[g.left]; !c.out.away {
			w.flush(c)
		}
	}
	if g.left == 0 {
		g.walking = false
		g.dirty.Store(false)
		// Those who were visited before the feed grew again must be once more.
		if g.feed.End() == g.end || g.dirty.Swap(true) {
			return
		}
	}
	w.push(job{group: g})
}

// regroup moves a connection to another group; nil: to none.
func (w *Writer) regroup(c *Conn, to *group) {
	if c.out.group == to {
		return
	}
	if g := c.out.group; g != nil {
		last := g.conns[len(g.conns)-1]
		g.conns[c.out.index], last.out.index = last, c.out.index
		g.conns[len(g.conns)-1] = nil
		g.conns = g.conns[:len(g.conns)-1]
		g.n.Add(-1)
	}
	if c.out.group = to; to != nil {
		c.out.index = len(to.conns)
		to.conns = append(to.conns, c)
		to.n.Add(1)
	}
}
