package up

import (
	"context"
	"errors"
)

// A group is what runs in this process: it is stopped in the reverse order of
// its start, each part before the one it stands on.
type group struct {
	undo   []func() error
	failed chan error // of a part that ended by itself
	err    error
}

// maxParts bounds the parts of a group, so that none waits to say its error.
const maxParts = 16

func newGroup() *group { return &group{failed: make(chan error, maxParts)} }

// start runs a part until the group stops it.
func (g *group) start(run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := run(ctx)
		if err != nil && ctx.Err() == nil {
			g.failed <- err
		}
		done <- err
	}()
	g.onStop(func() error {
		cancel()
		return <-done
	})
}

func (g *group) onStop(f func() error) { g.undo = append(g.undo, f) }

// stop stops every part; a second call does nothing.
func (g *group) stop() error {
	for len(g.undo) > 0 {
		last := len(g.undo) - 1
		f := g.undo[last]
		g.undo = g.undo[:last]
		if err := f(); err != nil {
			g.err = errors.Join(g.err, err)
		}
	}
	return g.err
}
