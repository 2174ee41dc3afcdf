package poll

import (
	"time"
)

// The stream has a bound (nats.maxBytes). When it is full its oldest messages go,
// and those are the values that have not changed for longest, of which a new
// reader would then know the freshness and nothing else. Their pollers know them.

const (
	// droppedEvery is how often a poller looks what the stream has dropped.
	DroppedEvery = 10 * time.Second
	// againAfter is how long after values of a poll were stored again this may be
	// done anew: a stream that cannot hold all values is not written round and
	// round.
	againAfter = 10 * time.Minute
	// droppedSaid is how often it is said at most.
	DroppedSaid = 5 * time.Minute
)

// storeAgain makes the poll say again what the stream dropped, and returns how
// many values that are.
func (p *Poll) StoreAgain(first uint64, now time.Time) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// What is under way brings its own idea of what is stored. A walk's positions
	// are its history, and go.
	if p.putting || p.Follow != nil || now.Sub(p.againAt) < againAfter {
		return 0
	}
	if p.Stored.Drop(first) {
		n++
	}
	for _, k := range p.Keys {
		if !k.gone && k.held.Drop(first) {
			n++
		}
	}
	if n > 0 {
		p.againAt = now
		p.Wake()
	}
	return n
}
