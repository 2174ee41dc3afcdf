package poller

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/prometheus/client_golang/prometheus"
)

// Why a runner's turn ends, beside the end of the poller.
var (
	errReplaced = errors.New("source has another configuration")
	errRemoved  = errors.New("source was taken out of the configuration")
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
func (p *Poller) Reload(_ context.Context, c Config) (Changes, error) {
	p.reloading.Lock()
	defer p.reloading.Unlock()
	changes, err := p.reload(c)
	if err != nil {
		return Changes{}, p.Refuse(err)
	}
	if c := p.others(); c != nil {
		c.say() // what there is to share is something else
	}
	p.metrics.reloads.WithLabelValues("ok").Inc()
	p.metrics.reloadOK.Set(1)
	p.metrics.reloadedAt.SetToCurrentTime()
	p.reloads.last.Store(&ReloadStatus{
		At: stamp(time.Now()), OK: true,
		Added: changes.Added, Changed: changes.Changed, Removed: changes.Removed,
	})
	return changes, nil
}

// Refuse counts and shows a configuration that did not even come as far as
// Reload. It returns the error.
func (p *Poller) Refuse(err error) error {
	p.metrics.reloads.WithLabelValues("refused").Inc()
	p.metrics.reloadOK.Set(0)
	p.reloads.last.Store(&ReloadStatus{At: stamp(time.Now()), Problem: err.Error()})
	return err
}

func (p *Poller) reload(c Config) (done Changes, err error) {
	if err := c.err(); err != nil {
		return done, err
	}
	old := map[string]*runner{}
	for _, r := range p.list() {
		old[r.name] = r
		if _, ok := c.Sources[r.name]; !ok {
			done.Removed = append(done.Removed, r.name)
		}
	}
	// Everything that can fail comes before anything is touched.
	made := map[string]*runner{}
	for _, name := range sortedKeys(c.Sources) {
		was := old[name]
		switch {
		case was == nil:
			done.Added = append(done.Added, name)
		case reflect.DeepEqual(was.config, c.Sources[name].withDefaults()) && was.files == was.config.filesDigest():
			done.Unchanged = append(done.Unchanged, name)
			continue
		default:
			done.Changed = append(done.Changed, name)
		}
		r, err := newRunner(name, c.Sources[name], p.log, p.metrics)
		if err != nil {
			for _, r := range made {
				r.close()
			}
			return Changes{}, err
		}
		r.complainTo, r.pulse = p.complain, &p.pulse
		made[name] = r
	}
	return done, p.rearrange(old, made, done)
}

// rearrange turns the seats to new runners, all at a time, and waits until they
// sit.
func (p *Poller) rearrange(old, made map[string]*runner, c Changes) error {
	type pending struct {
		seat   *seat
		change *change
	}
	var wait []pending
	p.mu.Lock()
	if p.ending {
		p.mu.Unlock()
		for _, r := range made {
			r.close()
		}
		return errNotRunning
	}
	for _, name := range slices.Concat(c.Changed, c.Removed) {
		next := made[name] // nil for one that is removed
		if s := p.seats[name]; s != nil {
			turn := &change{runner: next, done: make(chan struct{})}
			s.turn(turn)
			wait = append(wait, pending{s, turn})
			continue
		}
		if next != nil { // not run yet
			next.inherit(old[name])
		}
		p.replace(old[name], next)
		old[name].close()
	}
	p.mu.Unlock()
	for _, w := range wait {
		select {
		case <-w.change.done:
		case <-w.seat.gone: // as it was asked to, or the poller ends
			if r := w.change.runner; r != nil && !p.has(r) {
				r.close()
			}
		}
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range c.Removed {
		if p.seats[name] != nil {
			delete(p.seats, name)
			p.replace(old[name], nil)
			old[name].close()
		}
		p.metrics.forget(old[name], nil)
	}
	for _, name := range c.Changed {
		p.metrics.forget(old[name], made[name])
	}
	for _, name := range c.Added {
		if p.ending {
			made[name].close()
			continue
		}
		p.replace(nil, made[name])
		if p.seats != nil { // otherwise Run seats it
			p.sit(p.ctx, made[name])
		}
	}
	return nil
}

func (p *Poller) has(r *runner) bool { return slices.Contains(p.list(), r) }

// forget takes the label values of a runner's sources, upstreams and polls away
// that its successor, which may be nil, does not have.
func (m *metrics) forget(old, next *runner) {
	keep := map[string]bool{}
	if next != nil {
		for _, u := range next.upstreams.list {
			keep["upstream "+u.name] = true
		}
		for _, p := range next.polls {
			keep["poll "+p.topic] = true
		}
	}
	away := func(labels prometheus.Labels) {
		for _, v := range m.vecs {
			v.DeletePartialMatch(labels)
		}
	}
	for _, p := range old.polls {
		if !keep["poll "+p.topic] {
			away(prometheus.Labels{"poll": p.topic})
		}
	}
	for _, u := range old.upstreams.list {
		if !keep["upstream "+u.name] {
			away(prometheus.Labels{"source": old.name, "upstream": u.name})
		}
	}
	if next == nil {
		away(prometheus.Labels{"source": old.name})
	}
}

// sayPolling tells that a tenure begins, or goes on under another configuration.
func (r *runner) sayPolling(t *tenure, restored int) {
	if t.kept {
		r.log.Info("polling goes on as configured now", "polls", len(r.polls), "values_restored", restored, "fence", t.fence)
		return
	}
	r.metrics.leaseChanges.WithLabelValues(r.name, "acquired").Inc()
	r.log.Info("lease acquired, polling", "polls", len(r.polls), "values_restored", restored, "fence", t.fence, "why", t.why)
}

// inherit takes over what a former runner of the same source knows and the
// stream perhaps does not: neither of them runs.
func (r *runner) inherit(old *runner) {
	for _, u := range r.upstreams.list {
		for _, was := range old.upstreams.list {
			if was.name == u.name {
				u.circuit.free()
				u.circuit, was.moved = was.circuit, true
				u.quota = was.quota
				u.quota.bound(r.config.MaxCallsPerMinute)
				u.circuit.rebind(Rule(r.config.Breaker), r.announce)
			}
		}
	}
	r.upstreams.probes.Store(old.upstreams.probes.Load())
	r.breakers.inherit(&old.breakers)
	r.turns.inherit(&old.turns)
	r.lines.inherit(&old.lines)
	for _, p := range r.polls {
		for _, was := range old.polls {
			if was.topic == p.topic {
				p.inherit(was)
			}
		}
	}
}

// inherit takes over the memory of a poll with another configuration.
func (p *poll) inherit(old *poll) {
	p.begun = old.begun
	p.attempts.inherit(old.attempts, func(i int8) int8 {
		if i < 0 || int(i) >= len(old.upstreams.list) {
			return -1
		}
		name := old.upstreams.list[i].name
		return int8(slices.IndexFunc(p.upstreams.list, func(u *upstream) bool { return u.name == name }))
	})
	p.lines.inherit(old.lines)
	p.skipped, p.slot = old.skipped, old.slot
	if p.config.Interval != old.config.Interval {
		p.slot = time.Time{}
	}
	if p.shape.keyed() != old.shape.keyed() || (p.follow == nil) != (old.follow == nil) {
		return // the stream tells what there is
	}
	if p.follow != nil {
		p.follow.inherit(old.follow)
	}
	p.stored, p.good, p.keys = old.stored, old.good, old.keys
	// What counts as another value may have changed.
	redo := func(g *lastGood) {
		if g.value == nil {
			return
		}
		if d, err := digestOf(g.value, p.ignore); err == nil {
			g.digest = d
		}
	}
	redo(&p.good)
	for _, k := range p.keys {
		redo(&k.good)
	}
	if reflect.DeepEqual(p.config.MustAdvance, old.config.MustAdvance) && p.config.Select == old.config.Select {
		p.advanced = old.advanced
	}
	p.known, p.stale, p.staleSince, p.reason, p.detail = old.known, old.stale, old.staleSince, old.reason, old.detail
	p.whole, p.failures, p.checkedAt, p.last = old.whole, old.failures, old.checkedAt, old.last
	p.same = reflect.DeepEqual(p.config, old.config)
}

// inherit takes over the transitions that wait for NATS.
func (q *breakerQueue) inherit(old *breakerQueue) {
	old.mu.Lock()
	list, last, told := slices.Clone(old.list), old.last, old.told
	old.mu.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.init()
	q.list, q.last, q.told = list, last, told
	if len(list) > 0 {
		select {
		case q.signal <- struct{}{}:
		default:
		}
	}
}

// removedDetail is the last word on a poll that nobody polls any more.
const removedDetail = "taken out of the configuration"

// removedMaxAge is how long that word stands: no renewal follows.
const removedMaxAge = 365 * 24 * time.Hour

// leave says the last word on all polls of the source.
func (r *runner) leave(ctx context.Context, t *tenure, pub *publisher) {
	polls, _, err := pub.readSource(ctx, r.name)
	if err != nil {
		r.log.Warn("values of a removed source not marked as stale; they become so by silence", "error", err)
		return
	}
	r.farewell(ctx, t, pub, polls)
}

// farewell marks polls of the source as stale for good, since nobody polls them
// any more. Their last values stay in the stream.
func (r *runner) farewell(ctx context.Context, t *tenure, pub *publisher, polls map[string]remains) {
	for _, topic := range sortedKeys(polls) {
		if err := r.lastWord(ctx, t, pub, topic, polls[topic]); err != nil {
			if ctx.Err() == nil {
				r.log.Warn("value of a removed poll not marked as stale; it becomes so by silence", "poll", topic, "error", err)
			}
			return
		}
	}
}

func (r *runner) lastWord(ctx context.Context, t *tenure, pub *publisher, topic string, left remains) error {
	var st stored
	st.learn(left, nil)
	err := errAgain
	for range 5 {
		if st.fresh == nil || st.fresh.Stale && st.fresh.Detail == removedDetail {
			return nil
		}
		f := *st.fresh
		f.Stale, f.Reason, f.Detail = true, event.PollerSilent, removedDetail
		f.Breaker, f.NextProbeAt, f.ConsecutiveFailures = event.Closed, time.Time{}, 0
		f.MaxAgeMs = removedMaxAge.Milliseconds()
		if f.CheckedAt = stamp(time.Now()); !f.CheckedAt.After(st.fresh.CheckedAt) {
			f.CheckedAt = st.fresh.CheckedAt.Add(time.Millisecond)
		}
		if st, err = pub.put(ctx, job{topic: topic, fresh: &f, known: st, tenure: t}); err == nil {
			r.log.Info("poll was taken out of the configuration; its last value stays, stale", "poll", topic)
			return nil
		} else if !errors.Is(err, errAgain) {
			break
		}
	}
	return fmt.Errorf("say the last word on %s: %w", topic, err)
}
