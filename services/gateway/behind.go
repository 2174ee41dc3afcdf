package gateway

import (
	"time"

	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/hub"
)

// A client may have seen more of the stream, at another gateway, than this one
// has read: for moments, or because the NATS server here is cut off from its
// cluster and receives nothing. The client must not be shown values that are
// older than those it has, unless the stream itself was set back (restored).

const (
	// behindWait is how long a client waits for a gateway that is behind what the
	// client has seen.
	behindWait = 5 * time.Second
	// minBehindPause and maxBehindPause bound the pause between two checks while a
	// client waits: ten thousand may wait at the same time.
	minBehindPause, maxBehindPause = 5 * time.Millisecond, 250 * time.Millisecond
)

// hasReached reports whether the hub has read the stream as far as the client
// has seen it.
func hasReached(h *hub.Hub, req *wire.Subscribe) (reached bool) {
	h.With(func(v *hub.View) { reached = v.SeenSeq(req) <= v.Seq() })
	return reached
}

// awaitSeen waits until the gateway has read the stream as far as a client has
// seen it elsewhere, for behindWait at most, or until the connection closes. It
// returns since when the client has been waiting. The frames of one connection
// wait together: a frame that came while another one waited does not wait again.
// It blocks the connection's reader, and only that: frames of one connection are
// answered in their order.
func awaitSeen(h *hub.Hub, c *session, req *wire.Subscribe) (came time.Time) {
	if hasReached(h, req) {
		return h.Now()
	}
	if c.seenWait.since.IsZero() {
		c.seenWait.since = h.Now()
	}
	start := time.Now()
	if start.Sub(c.seenWait.until) < behindWait {
		return c.seenWait.since
	}
	for waited := time.Duration(0); waited < behindWait && !c.IsClosing(); waited = time.Since(start) {
		time.Sleep(min(max(waited/4, minBehindPause), maxBehindPause))
		if hasReached(h, req) {
			c.seenWait = seenWait{}
			return h.Now()
		}
	}
	c.seenWait.until = time.Now()
	return c.seenWait.since
}
