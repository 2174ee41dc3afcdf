package gateway

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/pkg/wire"
	"golang.org/x/time/rate"
)

const (
	// queueWait is the longest that a client waits for its ticket: the queue holds
	// as many clients as are admitted in that time.
	queueWait = 2 * time.Second
	// retryLeast and retrySpread are when a client for which there is no room may
	// come again; spread, so that they do not come together.
	retryLeast  = 2 * time.Second
	retrySpread = 8 * time.Second
	// againMost bounds when a client that the gate refuses may come again.
	againMost = time.Minute
)

// A gate admits clients at a rate. Clients that come faster wait for their ticket;
// those that would wait too long are refused, with the time when they may come
// again. Of ten thousand that come at once, all are connected as soon as the rate
// allows.
type gate struct {
	limit   *rate.Limiter
	away    *rate.Limiter // tickets of those that were refused
	waiting atomic.Int64
	mu      sync.Mutex // held while a ticket is taken that may be given back
}

// take takes a ticket of a limiter, if its wait is not longer than most. The mutex
// keeps others from taking one before that is known: a limiter gets nothing back
// for a ticket that is cancelled after a later one was taken.
func (g *gate) take(from *rate.Limiter, most time.Duration) (ticket *rate.Reservation, wait time.Duration, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	ticket = from.Reserve()
	if wait = ticket.Delay(); wait > most {
		ticket.Cancel()
		return nil, wait, false
	}
	return ticket, wait, true
}

func newGate(perSecond int) *gate {
	return &gate{
		limit: rate.NewLimiter(rate.Limit(perSecond), max(1, perSecond/4)),
		away:  rate.NewLimiter(rate.Limit(perSecond), 1),
	}
}

// again returns when a refused client may come again, in whole seconds. In each
// second as many may come as are admitted in one; the queue evens out the rest.
// The longest is againMost: if more are refused, they come spread over the second
// half of it.
func (g *gate) again() time.Duration {
	_, wait, ok := g.take(g.away, againMost-time.Second)
	if !ok {
		wait = againMost/2 + rand.N(againMost/2)
	}
	return wait.Truncate(time.Second) + time.Second
}

// The reasons for which a client is refused.
var (
	errQueueFull = errors.New("too many clients come at once")
	errShort     = errors.New("the gateway is short of memory")
)

// reasonQueue is the metric's label for clients that the gate refuses.
const reasonQueue = "queue"

// enter waits for a ticket.
func (g *gate) enter(ctx context.Context) error {
	ticket, wait, ok := g.take(g.limit, queueWait)
	switch {
	case !ok:
		return errQueueFull
	case wait == 0:
		return nil
	}
	g.waiting.Add(1)
	defer g.waiting.Add(-1)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		ticket.Cancel()
		return ctx.Err()
	}
}

// retryAfter returns when a client for which there is no room may come again.
func retryAfter() time.Duration {
	return (retryLeast + rand.N(retrySpread)).Round(time.Second)
}

// overloaded returns the reason of a close frame with code 1013.
func overloaded(why string) string { return wire.RetryIn(why, retryAfter()) }
