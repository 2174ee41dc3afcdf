package record

import (
	"context"
)

// places bounds the publishes that are under way at once, over all sources: when
// thousands of polls begin together, calls must not wait for the machine to be
// done with what they all have to say. nil is no bound.
type Places chan struct{}

// maxPuts is their number, enough for 5,000 records a second when NATS takes
// 50 ms for each.
const MaxPuts = 256

// take waits for a place; in is false if ctx ended before there was one.
func (at Places) Take(ctx context.Context) (waited, in bool) {
	if at == nil {
		return false, true
	}
	select {
	case at <- struct{}{}:
		return false, true
	default:
	}
	select {
	case at <- struct{}{}:
		return true, true
	case <-ctx.Done():
		return true, false
	}
}

func (at Places) Give() {
	if at != nil {
		<-at
	}
}

// enter waits for a place; in is false if ctx ended before there was one.
func (p *Publisher) Enter(ctx context.Context) (waited, in bool) { return p.Places.Take(ctx) }

func (p *Publisher) Leave() { p.Places.Give() }
