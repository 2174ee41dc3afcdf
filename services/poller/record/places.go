package record

import "context"

// Places bounds the publishes that are under way at once, over all sources: when
// thousands of polls begin together, calls must not wait until the machine has
// published all values. A nil Places is no bound.
type Places chan struct{}

// MaxPlaces is their usual number, enough for 5,000 records a second when NATS takes
// 50 ms for each.
const MaxPlaces = 256

// Enter waits for a place; in is false if ctx ended before there was one. Leave gives it
// back.
func (at Places) Enter(ctx context.Context) (waited, in bool) {
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

// Leave gives a place back.
func (at Places) Leave() {
	if at != nil {
		<-at
	}
}
