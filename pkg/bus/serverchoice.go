package bus

import (
	"errors"
	"sync"
	"time"
)

// leaveAfter is how long a server may be connected and of no use before another
// one is tried. A server that is cut off from its cluster keeps its clients.
const leaveAfter = 10 * time.Second

// serverChoice decides when the connection goes to another NATS server. Its zero
// value is ready. It may be used by several goroutines.
type serverChoice struct {
	mu      sync.Mutex
	useless time.Time // since when this server has been of no use; zero: it is of use
}

func (s *serverChoice) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.useless = time.Time{}
}

// expired counts one more failure and reports whether the server has been of no
// use for leaveAfter. It starts to count from zero then.
func (s *serverChoice) expired() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.useless.IsZero():
		s.useless = time.Now()
	case time.Since(s.useless) > leaveAfter:
		s.useless = time.Time{}
		return true
	}
	return false
}

// ServerUseful reports that the stream could be read at the connected server.
func (c *Conn) ServerUseful() { c.choice.reset() }

// ServerUseless reports that the stream could not be read at the connected server
// because of err. The connection goes to another server when the configuration or
// the cluster names one and this one has been of no use for 10 s.
func (c *Conn) ServerUseless(err error) {
	nc := c.NATS()
	if !nc.IsConnected() || errors.Is(err, ErrNoStream) || len(nc.Servers()) < 2 {
		c.choice.reset()
		return
	}
	if c.choice.expired() {
		c.log.Warn("the stream cannot be read at this NATS server; trying another one",
			"url", nc.ConnectedUrlRedacted(), "why", whyText(err))
		_ = nc.ForceReconnect() // it fails on a closed connection, which is replaced anyway
	}
}
