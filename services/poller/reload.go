package poller

import (
	"context"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	pkgconfig "github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/pkg/daemon"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/runner"
)

// Reload changes the poller to another configuration. It adds, changes and removes
// sources, and does not touch those that are the same. A changed source keeps its lease,
// its last values and the circuits of the upstreams that stay; calls that are under way
// may take 2 s more. Config.Operations has no effect. With an error nothing has changed;
// it wraps ErrConfig if another configuration would avoid it.
func (p *Poller) Reload(_ context.Context, c Config) (Changes, error) {
	p.reloading.Lock()
	defer p.reloading.Unlock()
	changes, err := p.reload(c)
	if err != nil {
		return Changes{}, p.reloads.refused(err)
	}
	if g := p.group.Load(); g != nil {
		g.Announce() // the other pollers compare their sources with this one's
	}
	p.reloads.accepted(changes)
	return changes, nil
}

// reload compares a configuration with the one in effect and makes the changes.
func (p *Poller) reload(c Config) (Changes, error) {
	if err := c.Err(); err != nil {
		return Changes{}, err
	}
	next, err := p.changesTo(c) // everything that can fail comes before anything is changed
	if err != nil {
		return Changes{}, err
	}
	if err := p.sources.apply(next); err != nil {
		return Changes{}, err
	}
	for name, old := range next.replaced {
		p.metrics.forget(old, next.runners[name])
	}
	return next.Changes, nil
}

// changesTo returns the changes that bring the poller to a configuration, with a runner
// for each source that is added or changed.
func (p *Poller) changesTo(c Config) (*changeSet, error) {
	next := &changeSet{supervisors: map[string]*supervisor{}, runners: map[string]*runner.Runner{}}
	for _, s := range p.sources.list() {
		next.supervisors[s.name] = s
		if _, ok := c.Sources[s.name]; !ok {
			next.Removed = append(next.Removed, s.name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Sources)) {
		s := next.supervisors[name]
		switch {
		case s == nil:
			next.Added = append(next.Added, name)
			s = newSupervisor(name, p.log, p.metrics)
			next.supervisors[name] = s
		case s.runner.Load().SameAs(c.Sources[name]):
			next.Unchanged = append(next.Unchanged, name)
			continue
		default:
			next.Changed = append(next.Changed, name)
		}
		r, err := p.newRunner(s, c.Sources[name])
		if err != nil {
			next.close()
			return nil, err
		}
		next.runners[name] = r
	}
	return next, nil
}

// Reloads returns what a daemon.Reloader does for a poller that runs with the settings
// running. T is all settings of the process: defaults makes them as an empty file means
// them, section returns the poller's.
func Reloads[T any](p *Poller, running T, defaults func() T, section func(*T) *Config) daemon.Apply {
	fixed := func(settings T) T {
		section(&settings).Sources = nil // a reload can change these
		return settings
	}
	return func(ctx context.Context, load func(into any) error) (daemon.Changes, error) {
		settings := defaults()
		if err := load(&settings); err != nil {
			return daemon.Changes{}, p.reloads.refused(err)
		}
		c, err := p.Reload(ctx, *section(&settings))
		return daemon.Changes{
			Added: c.Added, Changed: c.Changed, Removed: c.Removed, Unchanged: c.Unchanged,
			Restart: pkgconfig.Differ(fixed(running), fixed(settings)),
		}, err
	}
}

// ReloadStatus is the result of the last reload.
type ReloadStatus struct {
	At      time.Time `json:"at"` // in UTC
	OK      bool      `json:"ok"`
	Problem string    `json:"problem,omitempty"` // why the configuration was refused
	Added   []string  `json:"added,omitempty"`
	Changed []string  `json:"changed,omitempty"`
	Removed []string  `json:"removed,omitempty"`
}

// reloadLog counts reloads and remembers the last one.
type reloadLog struct {
	metrics *metrics
	last    atomic.Pointer[ReloadStatus] // nil before the first reload
}

// accepted notes a configuration that is in effect now.
func (l *reloadLog) accepted(c Changes) {
	l.metrics.reloads.WithLabelValues("ok").Inc()
	l.metrics.reloadOK.Set(1)
	l.metrics.reloadedAt.SetToCurrentTime()
	l.last.Store(&ReloadStatus{
		At: clock.Stamp(time.Now()), OK: true, Added: c.Added, Changed: c.Changed, Removed: c.Removed,
	})
}

// refused notes a configuration that cannot be used, and returns the error.
func (l *reloadLog) refused(err error) error {
	l.metrics.reloads.WithLabelValues("refused").Inc()
	l.metrics.reloadOK.Set(0)
	l.last.Store(&ReloadStatus{At: clock.Stamp(time.Now()), Problem: err.Error()})
	return err
}
