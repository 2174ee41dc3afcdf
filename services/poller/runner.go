package poller

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/drivers"
	"github.com/prometheus/client_golang/prometheus"
)

// runner runs one source: it waits for the lease, polls while it holds it, and
// waits again.
type runner struct {
	name      string
	config    Source
	files     [sha256.Size]byte // digest of those that config names
	upstreams *upstreams
	polls     []*poll
	log       *slog.Logger
	metrics   *metrics

	// What a tenure needs of the poller; tests of a runner bring their own.
	to         stream // where its records go; nil before the first tenure
	complainTo func(error)
	pulse      *pulse

	lease    atomic.Pointer[lease] // nil until NATS was there
	tenure   atomic.Pointer[tenure]
	lost     atomic.Pointer[context.CancelCauseFunc] // ends the tenure
	yield    atomic.Pointer[context.CancelCauseFunc] // ends it as a stop does
	breakers breakerQueue
	orphans  map[string]remains // polls in the stream that the configuration lacks
	closed   sync.Once
	turns    turns
	lines    lines
}

// grace is how long a stopping runner waits for calls and publishes under way.
const grace = 2 * time.Second

// probeStagger is how long polls wait for the one whose turn it is to probe.
const probeStagger = 20 * time.Millisecond

// newRunner makes a source of a checked configuration. close frees it.
func newRunner(name string, c Source, log *slog.Logger, m *metrics) (*runner, error) {
	c = c.withDefaults()
	r := &runner{name: name, config: c, files: c.filesDigest(), upstreams: new(upstreams), metrics: m, complainTo: func(error) {}}
	r.lines.most = sourceLines
	r.log = remember(log.With("source", name), &r.lines)
	header, _ := c.credentials()
	secrets := secretsOf(c)
	certificates, err := source.NewCertificates(c.TLS.files(), r.noteCertificates)
	if err != nil {
		return nil, fmt.Errorf("%w: sources.%s: %w", ErrConfig, name, err)
	}
	names, slowest := map[string]int{}, time.Duration(0)
	for _, pc := range c.Polls {
		slowest = max(slowest, pc.withDefaults(c).Interval)
	}
	for _, address := range c.Upstreams {
		u := &upstream{name: displayName(address, names), secrets: secrets}
		u.call, u.free, err = drivers.All[c.Driver].Open(source.Endpoint{
			URL: address, Header: maps.Clone(header), TLS: certificates, MaxAnswer: int64(c.MaxAnswer), Secrets: secrets,
			Idle: source.IdleTime(slowest), Batch: c.Batch, Descriptors: c.Descriptors, Notice: func(message string, facts ...any) { r.log.Info(message, append(facts, "upstream", u.name)...) },
		})
		if err != nil {
			r.close()
			return nil, fmt.Errorf("open upstream %s of source %s: %w", u.name, name, err)
		}
		if u.circuit, err = newCircuit(name, u.name, Rule(c.Breaker), r.announce); err != nil {
			u.free()
			r.close()
			return nil, fmt.Errorf("make circuit of source %s: %w", name, err)
		}
		u.quota = &quota{most: c.MaxCallsPerMinute}
		u.withheld, u.calls = m.withheld.WithLabelValues(name, u.name), map[callKind]prometheus.Counter{}
		for _, k := range callKinds {
			u.calls[k] = m.calls.WithLabelValues(name, u.name, string(k))
		}
		for _, to := range []event.State{event.Closed, event.HalfOpen, event.Open} {
			m.transitions.WithLabelValues(name, u.name, string(to))
		}
		r.upstreams.list = append(r.upstreams.list, u)
	}
	for i, pollName := range sortedKeys(c.Polls) {
		pc := c.Polls[pollName].withDefaults(c)
		topic := name + "." + pollName
		p := &poll{
			asker: &asker{
				topic: topic, index: i, config: pc, source: c, upstreams: r.upstreams,
				maxPayload: r.maxPayload, stood: func() time.Duration { return r.pulse.stood() },
			},
			host: r, schedule: newSchedule(topic, pc.Interval), attempts: new(attempts), lines: &lines{most: pollLines},
			counts: m.polls.of(topic),
			keys:   map[string]*keyed{}, always: pc.Emit == emitAlways,
		}
		p.log = remember(log.With("poll", topic), p.lines)
		if c.Batch { // one turn for all, so that their calls meet
			p.schedule = newSchedule(name, pc.Interval)
			p.schedule.exact = true
		}
		var bad []keyError
		if pc.Follow != nil {
			var err error
			p.follow = new(follower)
			if p.follow.sequence, p.question, err = newSequence(pc); err != nil {
				r.close()
				return nil, fmt.Errorf("poll %s: %w", topic, err)
			}
			p.readHead = p.follow.headOf
		} else if p.question, bad = pc.question(); len(bad) > 0 {
			r.close()
			return nil, fmt.Errorf("poll %s: %s: %w", topic, bad[0].key, bad[0].err)
		}
		if p.shape, bad = newShape(pc); len(bad) > 0 {
			r.close()
			return nil, fmt.Errorf("poll %s: %s: %w", topic, bad[0].key, bad[0].err)
		}
		for _, s := range sortedKeys(pc.Deadband) {
			b, err := newBand(s, pc.Deadband[s])
			if err != nil {
				r.close()
				return nil, fmt.Errorf("poll %s: deadband: %w", topic, err)
			}
			p.bands = append(p.bands, b)
		}
		for _, s := range pc.Ignore {
			parsed, err := parsePath(s)
			if err != nil {
				r.close()
				return nil, fmt.Errorf("poll %s: ignore: %w", topic, err)
			}
			p.ignore = append(p.ignore, parsed)
		}
		r.polls = append(r.polls, p)
	}
	return r, nil
}

func (r *runner) noteCertificates(text string, err error) {
	if err != nil {
		r.log.Warn(text, "error", err)
		return
	}
	r.log.Info(text)
}

func (r *runner) close() {
	r.closed.Do(func() {
		for _, u := range r.upstreams.list {
			u.free()
			if !u.moved {
				u.circuit.free()
			}
		}
	})
}

func (r *runner) owned() bool {
	t := r.tenure.Load()
	return t != nil && t.valid()
}

// run owns the source whenever it can, until stop ends, beginning with tenure t
// if that is not nil. If stop ends for errReplaced it returns the tenure that is
// to go on.
func (r *runner) run(stop context.Context, l *lease, t *tenure, pub *publisher) *tenure {
	r.to = pub
	r.lease.Store(l)
	for {
		if t == nil {
			var err error
			if t, err = l.acquire(stop); err != nil {
				return nil
			}
		}
		if r.own(stop, l, t, pub) {
			t.kept = true
			return t
		}
		if t = nil; stop.Err() != nil {
			return nil
		}
	}
}

// own polls for as long as the lease is held. A stop lets calls and publishes
// under way finish and gives the lease back, or keeps it for a successor; a lost
// lease cuts them short.
func (r *runner) own(stop context.Context, l *lease, t *tenure, pub *publisher) (kept bool) {
	hard, lose := context.WithCancelCause(context.WithoutCancel(stop))
	defer lose(nil)
	r.lost.Store(&lose)
	stop, yield := context.WithCancelCause(stop)
	defer yield(nil)
	r.yield.Store(&yield)
	var holding sync.WaitGroup
	holdCtx, endHold := context.WithCancel(context.WithoutCancel(stop))
	defer endHold()
	holding.Go(func() {
		if err := l.hold(holdCtx, t); err != nil {
			lose(err)
		}
	})
	defer context.AfterFunc(stop, func() {
		select {
		case <-hard.Done():
		case <-time.After(grace):
			lose(context.DeadlineExceeded)
		}
	})()

	polls, guard, err := r.restore(stop, hard, t, pub)
	if err == nil {
		r.tenure.Store(t)
		r.sayPolling(t, polls)
		r.work(stop, hard, t, pub, guard)
		if errors.Is(context.Cause(stop), errRemoved) {
			r.leave(hard, t, pub)
		}
		r.tenure.Store(nil)
	}
	endHold()
	holding.Wait()
	cause := context.Cause(hard)
	if errors.Is(context.Cause(stop), errReplaced) && t.valid() && (cause == nil || errors.Is(cause, context.DeadlineExceeded)) {
		return true
	}
	if cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
		r.metrics.leaseChanges.WithLabelValues(r.name, "lost").Inc()
		r.log.Warn("lease lost, polling stopped", "cause", cause)
	}
	// Also a lease that somebody else got meanwhile: then it changes nothing.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(stop), grace)
	defer cancel()
	if err := l.release(ctx, t); err == nil {
		change := "released"
		if errors.Is(context.Cause(stop), errGiven) {
			change = "given"
		}
		r.metrics.leaseChanges.WithLabelValues(r.name, change).Inc()
		r.log.Info("lease released")
	} else if cause == nil {
		r.log.Warn("lease not released; it ends by itself", "error", err)
	}
	return false
}

// work runs the polls and says the breaker's transitions until both are done.
func (r *runner) work(stop, hard context.Context, t *tenure, pub *publisher, guard uint64) {
	var polls, breakers sync.WaitGroup
	done := make(chan struct{})
	breakers.Go(func() { r.publishBreakers(hard, done, t, pub, guard) })
	polls.Go(func() { r.runPolls(stop, hard, t) })
	polls.Go(func() { r.farewell(hard, t, pub, r.orphans) })
	polls.Wait()
	close(done)
	breakers.Wait()
}

// restore takes up what the last owner left in the stream. It tries until it
// can, or either context ends.
func (r *runner) restore(stop, hard context.Context, t *tenure, pub *publisher) (values int, guard uint64, err error) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		polls, breaker, err := pub.readSource(hard, r.name)
		if err == nil {
			// The bucket of the leases may have been made anew, and count from 1.
			for _, left := range polls {
				t.fence = max(t.fence, left.fence()+1)
			}
			if breaker.Breaker != nil {
				t.fence = max(t.fence, breaker.Breaker.Fence+1)
			}
			r.upstreams.restoreCircuits(polls, breaker)
			if r.breakers.forget(breaker.Breaker); breaker.Breaker == nil {
				r.streamAnew()
			}
			for _, p := range r.polls {
				p.resume(polls[p.topic])
				if p.good.value != nil || p.follow != nil && p.follow.at.known {
					values++
				}
				values += p.live()
				delete(polls, p.topic)
				if t.handed && !t.kept {
					p.spare(clock())
				}
			}
			r.orphans = polls
			return values, breaker.Seq, nil
		}
		r.complain(err)
		select {
		case <-stop.Done():
			return 0, 0, stop.Err()
		case <-hard.Done():
			return 0, 0, context.Cause(hard)
		case <-time.After(wait):
		}
	}
}

func (r *runner) stream() stream { return r.to }

func (r *runner) maxPayload() int64 {
	if r.to == nil {
		return 0
	}
	return r.to.maxPayload()
}

func (r *runner) complain(err error) { r.complainTo(err) }

// lose ends the tenure at once.
func (r *runner) lose(why error) {
	if f := r.lost.Load(); f != nil {
		(*f)(why)
	}
}

func (r *runner) wakePolls() {
	for _, p := range r.polls {
		p.wake()
	}
}

// natsBack is called when the connection returns: what waits need not wait.
func (r *runner) natsBack() {
	if l := r.lease.Load(); l != nil {
		l.poke()
	}
	r.wakePolls()
}

// announce is told every transition of a circuit, under its mutex.
func (r *runner) announce(b event.Breaker) {
	log := r.log.With("upstream", b.Upstream)
	switch {
	case b.To == event.Closed:
		log.Info("breaker closed: the upstream answers again")
	case b.To == event.HalfOpen:
		r.upstreams.probes.Add(1)
		log.Info("breaker lets one probe through")
	case b.From == event.HalfOpen:
		log.Warn("probe failed, breaker stays open", "cause", b.Cause, "failures", b.Failures, "next_probe", b.NextProbeAt)
	default:
		log.Warn("breaker opened", "cause", b.Cause, "failures", b.Failures, "next_probe", b.NextProbeAt)
	}
	r.metrics.transitions.WithLabelValues(r.name, b.Upstream, string(b.To)).Inc()
	r.turns.add(b)
	r.breakers.push(b)
	r.wakePolls()
}
