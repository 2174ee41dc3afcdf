package daemon

import (
	"context"
	"errors"
	"sync"
)

// Together runs the parts of a process until ctx ends or one of them ends. The
// parts are stopped in the given order, each when the one before it has ended. It
// returns the errors of all.
func Together(ctx context.Context, parts ...func(context.Context) error) error {
	ended := make(chan struct{}, len(parts))
	errs := make([]error, len(parts))
	dones := make([]chan struct{}, len(parts))
	stops := make([]context.CancelFunc, len(parts))
	var wg sync.WaitGroup
	for i, part := range parts {
		inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
		stops[i], dones[i] = cancel, make(chan struct{})
		wg.Go(func() {
			defer close(dones[i])
			errs[i] = part(inner)
			ended <- struct{}{}
		})
	}
	select {
	case <-ctx.Done():
	case <-ended:
	}
	for i := range parts {
		stops[i]()
		<-dones[i]
	}
	wg.Wait()
	return errors.Join(errs...)
}
