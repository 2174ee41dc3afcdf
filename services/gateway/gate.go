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
	// queueWait is the longest that a client waits for its turn: the queue holds
	// as many as are taken in that time.
	queueWait = 2 * time.Second
	// retryLeast and retrySpread are when a client for whom there is no room may
	// come again; spread, so that they do not come together.
	retryLeast  = 2 * time.Second
	retrySpread = 8 * time.Second
	// againMost bounds when a client that the gate turns away may come again.
	againMost = time.Minute
)

// A gate lets clients in at a rate. Those who come faster wait for their turn;
// those who would wait too long are turned away, and told when their turn is:
// of ten thousand that come at once, all are in as soon as the rate allows.
type gate struct {
	limit   *rate.Limiter
	away    *rate.Limiter // the turns of those who were turned away
	waiting atomic.Int64
	mu      sync.Mutex // held while a turn is taken that may be given back
}

// take takes a turn that is no later than most. (Of a turn that is given back
// when another was taken after it, a limiter gives nothing back.)
func (g *gate) take(from *rate.Limiter, most time.Duration) (turn *rate.Reservation, wait time.Duration, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	turn = from.Reserve()
	if wait = turn.Delay(); wait > most {
		turn.Cancel()
		return nil, wait, false
	}
	return turn, wait, true
}

func newGate(perSecond int) *gate {
	return &gate{
		limit: rate.NewLimiter(rate.Limit(perSecond), max(1, perSecond/4)),
		away:  rate.NewLimiter(rate.Limit(perSecond), 1),
	}
}

// again is when a client that is turned away may come again, in whole seconds:
// as many are told to come in each as are let in, and the queue takes what
// comes unevenly. Nobody is told to come later than againMost; if so many were
// turned away, they come spread over half of it.
func (g *gate) again() time.Duration {
	_, wait, ok := g.take(g.away, againMost-time.Second)
	if !ok {
		wait = againMost/2 + rand.N(againMost/2)
	}
	return wait.Truncate(time.Second) + time.Second
}

// Why a client is turned away.
var (
	errQueueFull = errors.New("too many clients come at once")
	errShort     = errors.New("the gateway is short of memory")
)

// reasonQueue is the metric's label for those whom the gate turns away.
const reasonQueue = "queue"

// enter waits for a turn.
func (g *gate) enter(ctx context.Context) error {
	turn, wait, ok := g.take(g.limit, queueWait)
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
		turn.Cancel()
		return ctx.Err()
	}
}

// retryAfter is when a client for whom there is no room may come again.
func retryAfter() time.Duration {
	return (retryLeast + rand.N(retrySpread)).Round(time.Second)
}

// overloaded is the reason of a close frame with code 1013.
func overloaded(why string) string { return wire.RetryIn(why, retryAfter()) }
