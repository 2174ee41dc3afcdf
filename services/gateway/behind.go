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

// seenWait is how long a connection's client has waited, without success, for the
// gateway to read what it has seen. The reader's.
type seenWait struct {
	since time.Time // when the first frame came that had to wait; zero: none has
	until time.Time // when the last wait ended
}

// hasReached reports whether the hub has read the stream as far as the client
// has seen it.
func (s *server) hasReached(req *wire.Subscribe) (reached bool) {
	s.hub.With(func(v *hub.View) { reached = v.SeenSeq(req) <= v.Seq() })
	return reached
}

// awaitSeen waits until the gateway has read the stream as far as a client has
// seen it elsewhere, for behindWait at most, or until the connection closes. It
// returns since when the client has been waiting. The frames of one connection
// wait together: a frame that came while another one waited does not wait again.
// It blocks the connection's reader, and only that: frames of one connection are
// answered in their order.
func (s *server) awaitSeen(c *session, req *wire.Subscribe) (came time.Time) {
	if s.hasReached(req) {
		return s.hub.Now()
	}
	if c.seenWait.since.IsZero() {
		c.seenWait.since = s.hub.Now()
	}
	start := time.Now()
	if start.Sub(c.seenWait.until) < behindWait {
		return c.seenWait.since
	}
	for waited := time.Duration(0); waited < behindWait && !c.IsClosing(); waited = time.Since(start) {
		time.Sleep(min(max(waited/4, minBehindPause), maxBehindPause))
		if s.hasReached(req) {
			c.seenWait = seenWait{}
			return s.hub.Now()
		}
	}
	c.seenWait.until = time.Now()
	return c.seenWait.since
}
