package gateway

import (
	"time"

	"github.com/pollcast/pollcast/pkg/wire"
)

// A client may have seen more of the stream, at another gateway, than this one
// has read: by moments, or because the NATS server here is cut off from its
// cluster and hears nothing. It must not be shown older values than it has; only
// if the stream itself was set back (restored) it must.

const (
	// behindWait is how long a gateway may be behind what the client saw at
	// another one.
	behindWait = 5 * time.Second
	// The first and the longest pause between two looks, while a client waits.
	behindLook, behindPause = 5 * time.Millisecond, 250 * time.Millisecond
)

// A vain is how a connection's client has waited in vain: since and until when.
type vain struct{ came, until time.Time }

// floor is how far a client has seen the gateway's stream, as it says; 0 if it
// says nothing. The caller holds the mutex.
func (h *hub) floor(req *wire.Subscribe) (seq uint64) {
	for _, p := range []*wire.Since{req.Since, req.NotOlderThan} {
		if p != nil && p.Epoch == h.epoch {
			seq = max(seq, p.Seq)
		}
	}
	return seq
}

// behind reports whether a client has seen more of the stream than the hub. The
// caller holds the mutex.
func (h *hub) behind(req *wire.Subscribe) bool { return h.floor(req) > h.seq }

// reached waits until the gateway has read the stream as far as a client has
// seen it elsewhere, for behindWait at most, and returns since when the client
// has been waiting. The frames of one connection wait together: what came while
// one did has waited as well. Reader's.
func (s *server) reached(c *conn, req *wire.Subscribe) (came time.Time) {
	h := s.hub
	there := func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return !h.behind(req)
	}
	if there() {
		return h.now()
	}
	if c.vain.came.IsZero() {
		c.vain.came = h.now()
	}
	if time.Since(c.vain.until) < behindWait {
		return c.vain.came
	}
	start := time.Now()
	for waited := time.Duration(0); waited < behindWait && !c.isClosing(); waited = time.Since(start) {
		time.Sleep(min(max(waited/4, behindLook), behindPause)) // ten thousand may wait
		if there() {
			c.vain = vain{}
			return h.now()
		}
	}
	c.vain.until = time.Now()
	return c.vain.came
}

// older reports whether what the hub has may be older than the stream, of which
// a client that came at a time has seen more. It is not if since then something
// came straight from the stream and NATS, asked after that, had nothing more: a
// server that is cut off from its cluster, or was frozen, may say so for a
// while, but nothing comes from it, and what it was held back comes before it
// says so. The caller holds the mutex.
func (h *hub) older(came time.Time) bool { return h.busDown || !h.proved.After(came) }
