package poller

import (
	"context"
	"errors"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
)

const (
	// stayEvery is how often the NATS server is asked whether it is of use.
	stayEvery = 2 * time.Second
	// stayTimeout bounds its answer.
	stayTimeout = 2 * time.Second
	// stayRarely is how often it is asked where it did not answer at first.
	stayRarely = 5 * time.Minute
)

// stay watches the NATS server that the poller is connected to, until ctx ends,
// and has it go to another one when this one cannot speak for the stream. One
// that is cut off from its cluster takes neither records nor leases, and keeps
// its clients for ever. What it says of the stream also tells what that has
// dropped. made is closed when the stream and the bucket were made.
func (p *Poller) stay(ctx context.Context, nc *bus.Conn, made <-chan struct{}) {
	tick := time.NewTicker(stayEvery)
	defer tick.Stop()
	var dropped dropped
	denied := false
	for {
		first := false
		select {
		case <-ctx.Done():
			return
		case <-made:
			made, first = nil, true
		case <-tick.C:
		}
		asking, cancel := context.WithTimeout(ctx, stayTimeout)
		state, err := bus.State(asking, nc.JetStream(), p.names)
		cancel()
		switch {
		case ctx.Err() != nil:
		case err == nil:
			nc.ServerUseful()
			if denied {
				denied = false
				tick.Reset(stayEvery)
			}
			dropped.look(p, state.FirstSeq)
		case denied:
		case first && errors.Is(err, context.DeadlineExceeded):
			// NATS has just done all that polling needs: the poller's user may not ask
			// this. Each time would be a line in the log.
			denied = true
			tick.Reset(stayRarely)
		default:
			nc.ServerUseless(err)
		}
	}
}
