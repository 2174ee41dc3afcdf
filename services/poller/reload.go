package poller

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/runner"
)

// Changes is what a reload did, by source.
type Changes struct{ Added, Changed, Removed, Unchanged []string }

// ReloadStatus is how the last reload went. Its times are in UTC.
type ReloadStatus struct {
	At time.Time `json:"at"`
	OK bool      `json:"ok"`
	// Problem says why it was refused.
	Problem string   `json:"problem,omitempty"`
	Added   []string `json:"added,omitempty"`
	Changed []string `json:"changed,omitempty"`
	Removed []string `json:"removed,omitempty"`
}

// reloadLog remembers the last reload.
type reloadLog struct{ last atomic.Pointer[ReloadStatus] }

// Reload brings the poller to another configuration: it adds, changes and
// removes sources, and does not touch those that are the same. A changed source
// keeps its lease, its last values and the circuits of the upstreams that stay;
// calls under way may finish for 2 s. Config.Operations is not looked at. With
// an error, which wraps ErrConfig if a changed configuration would cure it,
// nothing has changed.
func (p *Poller) Reload(_ context.Context, c config.Config) (Changes, error) {
	p.reloading.Lock()
	defer p.reloading.Unlock()
	changes, err := p.reload(c)
	if err != nil {
		return Changes{}, p.Refuse(err)
	}
	if c := p.others(); c != nil {
		c.Announce() // what there is to share is something else
	}
	p.metrics.reloads.WithLabelValues("ok").Inc()
	p.metrics.reloadOK.Set(1)
	p.metrics.reloadedAt.SetToCurrentTime()
	p.reloads.last.Store(&ReloadStatus{
		At: clock.Stamp(time.Now()), OK: true,
		Added: changes.Added, Changed: changes.Changed, Removed: changes.Removed,
	})
	return changes, nil
}

// Refuse counts and shows a configuration that did not even come as far as
// Reload. It returns the error.
func (p *Poller) Refuse(err error) error {
	p.metrics.reloads.WithLabelValues("refused").Inc()
	p.metrics.reloadOK.Set(0)
	p.reloads.last.Store(&ReloadStatus{At: clock.Stamp(time.Now()), Problem: err.Error()})
	return err
}

func (p *Poller) reload(c config.Config) (done Changes, err error) {
	if err := c.Err(); err != nil {
		return done, err
	}
	old := map[string]*supervisor{}
	for _, s := range p.list() {
		old[s.name] = s
		if _, ok := c.Sources[s.name]; !ok {
			done.Removed = append(done.Removed, s.name)
		}
	}
	// Everything that can fail comes before anything is changed.
	made := map[string]*runner.Runner{}
	for _, name := range jq.SortedKeys(c.Sources) {
		s := old[name]
		switch {
		case s == nil:
			done.Added = append(done.Added, name)
			s = newSupervisor(name, p.log, p.metrics)
			old[name] = s
		case s.runner.Load().SameAs(c.Sources[name]):
			done.Unchanged = append(done.Unchanged, name)
			continue
		default:
			done.Changed = append(done.Changed, name)
		}
		r, err := p.newRunner(s, c.Sources[name])
		if err != nil {
			for _, r := range made {
				r.Close()
			}
			return Changes{}, err
		}
		made[name] = r
	}
	return done, p.rearrange(old, made, done)
}

// rearrange makes the changes, all at the same time, and waits for them.
func (p *Poller) rearrange(sources map[string]*supervisor, made map[string]*runner.Runner, c Changes) error {
	p.mu.Lock()
	if p.ending {
		p.mu.Unlock()
		for _, r := range made {
			r.Close()
		}
		return errNotRunning
	}
	var wait []<-chan struct{}
	before := map[string]*runner.Runner{}
	for _, name := range slices.Concat(c.Changed, c.Removed) {
		s := sources[name]
		before[name] = s.runner.Load()
		wait = append(wait, s.change(made[name])) // nil for one that is removed
	}
	p.mu.Unlock()
	for _, made := range wait {
		<-made
	}
	for _, name := range c.Removed {
		sources[name].done.Wait()
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range c.Removed {
		p.sources = slices.DeleteFunc(slices.Clone(p.sources), func(s *supervisor) bool { return s.name == name })
		before[name].Close()
		p.metrics.forget(before[name], nil)
	}
	for _, name := range c.Changed {
		p.metrics.forget(before[name], made[name])
	}
	for _, name := range c.Added {
		if p.ending {
			made[name].Close()
			continue
		}
		s := sources[name]
		s.runner.Store(made[name])
		list := slices.Clone(p.sources)
		at, _ := slices.BinarySearchFunc(list, name, func(s *supervisor, name string) int { return strings.Compare(s.name, name) })
		p.sources = slices.Insert(list, at, s)
		if p.ctx != nil { // otherwise Run starts it
			p.startSource(s)
		}
	}
	return nil
}
