package poller

import (
	"context"
	"errors"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
)

const (
	// checkServerEvery is how often the NATS server is asked about the stream, and
	// checkServerTimeout bounds its answer.
	checkServerEvery   = 2 * time.Second
	checkServerTimeout = 2 * time.Second
	// checkDeniedEvery is how often it is asked when it did not answer the first time.
	checkDeniedEvery = 5 * time.Minute
)

// watchServer asks the NATS server about the stream until ctx ends, and connects to
// another server when this one cannot answer. A server that is cut off from its cluster
// takes neither records nor leases, but keeps its clients for ever. prepared is closed
// when the stream and the bucket exist. onState gets every answer, on this goroutine.
func (l *link) watchServer(ctx context.Context, prepared <-chan struct{}, onState func(bus.StreamState)) {
	conn := l.conn.Load()
	tick := time.NewTicker(checkServerEvery)
	defer tick.Stop()
	denied := false
	for {
		first := false
		select {
		case <-ctx.Done():
			return
		case <-prepared:
			prepared, first = nil, true
		case <-tick.C:
		}
		asking, cancel := context.WithTimeout(ctx, checkServerTimeout)
		state, err := bus.State(asking, conn.JetStream(), l.names)
		cancel()
		switch {
		case ctx.Err() != nil:
		case err == nil:
			conn.ServerUseful()
			if denied {
				denied = false
				tick.Reset(checkServerEvery)
			}
			onState(state)
		case denied:
		case first && errors.Is(err, context.DeadlineExceeded):
			// NATS has just done everything that polling needs: the poller's user may lack
			// the permission to ask this. Each further request would be a line in the log.
			denied = true
			tick.Reset(checkDeniedEvery)
		default:
			conn.ServerUseless(err)
		}
	}
}
