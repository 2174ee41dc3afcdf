package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// storeWait is how long nothing may be stored, although something was published,
	// before StoreErr reports it. A change of the stream's leader takes less.
	storeWait = 10 * time.Second
	// storeMemory is how long a failure counts when nothing is published any more.
	storeMemory = 30 * time.Second
)

// ErrStoresNothing means that the stream takes no messages, although NATS is
// connected. NATS does not answer a message that it cannot write to its disk, and
// refuses the later ones as well until it is started again.
var ErrStoresNothing = errors.New("NATS stores nothing")

// storing is whether messages reach the stream.
type storing struct {
	mu    sync.Mutex
	since time.Time // of the first failure since a message was stored; zero: none
	last  time.Time // of the last failure
	err   error     // of the last failure
}

// Stored reports that the stream has answered a message.
func (c *Conn) Stored() {
	c.storing.mu.Lock()
	defer c.storing.mu.Unlock()
	c.storing.since, c.storing.err = time.Time{}, nil
}

// NotStored reports that a message, published at the time begun, was refused or not
// answered.
func (c *Conn) NotStored(begun time.Time, err error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, nats.ErrMaxPayload) {
		return // the message was not sent, or its answer not waited for
	}
	s := &c.storing
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since.IsZero() || time.Since(s.last) > storeMemory {
		s.since = begun
	}
	s.last, s.err = time.Now(), err
}

// StoreErr returns nil unless messages were published for 10 s and none was stored.
// The error wraps ErrStoresNothing and says what to look at.
func (c *Conn) StoreErr() error {
	s := &c.storing
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	switch {
	case s.since.IsZero(), s.last.Sub(s.since) < storeWait, now.Sub(s.last) > storeMemory:
		return nil
	case errors.Is(s.err, context.DeadlineExceeded), errors.Is(s.err, nats.ErrTimeout):
		return fmt.Errorf("%w: no answer for %v; look at its log and its disk: after a write error it needs a restart",
			ErrStoresNothing, now.Sub(s.since).Round(time.Second))
	}
	return fmt.Errorf("%w for %v: %w", ErrStoresNothing, now.Sub(s.since).Round(time.Second), s.err)
}
