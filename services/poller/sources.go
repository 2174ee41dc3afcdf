package poller

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/pollcast/pollcast/services/poller/lease"
	"github.com/pollcast/pollcast/services/poller/record"
	"github.com/pollcast/pollcast/services/poller/runner"
)

// sources are the supervisors of a poller. Its methods may be called by several
// goroutines. A lease.Group calls claimants under its own mutex, so that no method may
// call what takes that one.
type sources struct {
	mu        sync.Mutex        // guards what follows, but not the supervisors themselves
	all       []*supervisor     // by name; a change makes a new slice
	ctx       context.Context   // of their goroutines; nil before start
	group     *lease.Group      // set by start
	publisher *record.Publisher // set by start
	ending    bool              // no source is started or changed any more
}

// list returns the supervisors by name.
func (a *sources) list() []*supervisor {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.all)
}

// claimants returns the supervisors as the lease.Group sees them.
func (a *sources) claimants() []lease.Claimant {
	var all []lease.Claimant
	for _, s := range a.list() {
		all = append(all, s)
	}
	return all
}

// start starts all sources, and those that are added later, until ctx ends.
func (a *sources) start(ctx context.Context, group *lease.Group, publisher *record.Publisher) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ctx, a.group, a.publisher = ctx, group, publisher
	for _, s := range a.all {
		a.startOne(s)
	}
}

// startOne starts a source. It is called with mu held, after start.
func (a *sources) startOne(s *supervisor) {
	s.start(a.ctx, a.group.Lease(s.name, s.log), a.publisher)
}

// wait waits until all sources have ended, after the end of start's ctx.
func (a *sources) wait() {
	a.mu.Lock()
	a.ending = true
	a.mu.Unlock()
	for _, s := range a.list() {
		s.done.Wait()
	}
}

// Changes are the names of the sources that a reload added, changed, removed or left as
// they were.
type Changes struct{ Added, Changed, Removed, Unchanged []string }

// changeSet is what a reload changes.
type changeSet struct {
	Changes
	supervisors map[string]*supervisor    // by name, with those that are added
	runners     map[string]*runner.Runner // of the sources that are added or changed
	replaced    map[string]*runner.Runner // of the sources that are changed or removed
}

// close frees the runners of changes that are not made.
func (c *changeSet) close() {
	for _, r := range c.runners {
		r.Close()
	}
}

// apply makes all changes at the same time, and waits for them. With errNotRunning it
// has made none, and has closed their runners.
func (a *sources) apply(c *changeSet) error {
	waits, err := a.request(c)
	if err != nil {
		c.close()
		return err
	}
	for _, made := range waits {
		<-made
	}
	for _, name := range c.Removed {
		c.supervisors[name].done.Wait()
		c.replaced[name].Close()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range c.Removed {
		a.all = slices.DeleteFunc(slices.Clone(a.all), func(s *supervisor) bool { return s.name == name })
	}
	for _, name := range c.Added {
		a.add(c.supervisors[name], c.runners[name])
	}
	return nil
}

// request asks the supervisors for their changes. The channels are closed when the
// changes are made.
func (a *sources) request(c *changeSet) (waits []<-chan struct{}, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ending {
		return nil, errNotRunning
	}
	c.replaced = map[string]*runner.Runner{}
	for _, name := range slices.Concat(c.Changed, c.Removed) {
		s := c.supervisors[name]
		c.replaced[name] = s.runner.Load()
		waits = append(waits, s.change(c.runners[name])) // nil for a source that is removed
	}
	return waits, nil
}

// add adds a source, and starts it if the others run. It is called with mu held.
func (a *sources) add(s *supervisor, r *runner.Runner) {
	if a.ending {
		r.Close()
		return
	}
	s.runner.Store(r)
	at, _ := slices.BinarySearchFunc(a.all, s.name, func(s *supervisor, name string) int {
		return strings.Compare(s.name, name)
	})
	a.all = slices.Insert(slices.Clone(a.all), at, s)
	if a.ctx != nil {
		a.startOne(s)
	}
}
