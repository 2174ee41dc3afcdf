package poller

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/drivers"
	"github.com/prometheus/client_golang/prometheus"
)

// errRemoved ends a session when the source was taken out of the configuration.
var errRemoved = errors.New("source was taken out of the configuration")

// runner polls one source as it is configured, one session after another.
type runner struct {
	name      string
	config    Source
	files     [sha256.Size]byte // digest of those that config names
	upstreams *upstreams
	polls     []*poll
	log       *slog.Logger
	metrics   *runnerMetrics

	// What a tenure needs of the poller; tests of a runner bring their own.
	to         stream // where its records go; nil before the first tenure
	complainTo func(error)
	pulse      *pulse

	loseTenure atomic.Pointer[func(error)]
	breakers   breakerQueue
	orphans    map[string]remains // polls in the stream that the configuration lacks
	closed     sync.Once
	turns      turns
}

// probeStagger is how long polls wait for the one whose turn it is to probe.
const probeStagger = 20 * time.Millisecond

// newRunner makes a source of a checked configuration. close frees it.
func newRunner(name string, c Source, log *slog.Logger, m *runnerMetrics) (*runner, error) {
	c = c.withDefaults()
	r := &runner{name: name, config: c, files: c.filesDigest(), upstreams: new(upstreams), metrics: m, complainTo: func(error) {}}
	r.log = log.With("source", name)
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
		if p.shape, bad = pc.shape(); len(bad) > 0 {
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

// session is one time of polling under a lease.
type session struct {
	stop, cut context.Context // cut ends what stop lets finish
	tenure    *tenure
	to        *publisher
	continued bool        // another runner of the source polled before, under the same tenure
	lose      func(error) // ends the tenure at once
	polling   func()      // called when what the stream holds is known
}

// serve polls until stop ends. Then it lets calls and publishes that are under way
// finish, until cut ends.
func (r *runner) serve(s session) {
	r.to = s.to
	r.loseTenure.Store(&s.lose)
	values, guard, err := r.restore(s)
	if err != nil {
		return
	}
	s.polling()
	if s.continued {
		r.log.Info("polling goes on as configured now", "polls", len(r.polls), "values_restored", values, "fence", s.tenure.fence)
	} else {
		r.metrics.leaseChanges.WithLabelValues(r.name, "acquired").Inc()
		r.log.Info("lease acquired, polling", "polls", len(r.polls), "values_restored", values, "fence", s.tenure.fence, "why", s.tenure.why)
	}
	r.work(s.stop, s.cut, s.tenure, s.to, guard)
	if errors.Is(context.Cause(s.stop), errRemoved) {
		r.leave(s.cut, s.tenure, s.to)
	}
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
func (r *runner) restore(s session) (values int, guard uint64, err error) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		polls, breaker, err := s.to.readSource(s.cut, r.name)
		if err == nil {
			// The bucket of the leases may have been made anew, and count from 1.
			for _, left := range polls {
				s.tenure.fence = max(s.tenure.fence, left.fence()+1)
			}
			if breaker.Breaker != nil {
				s.tenure.fence = max(s.tenure.fence, breaker.Breaker.Fence+1)
			}
			r.restoreCircuits(polls, breaker)
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
				if s.tenure.handed && !s.continued {
					p.spare(clock())
				}
			}
			r.orphans = polls
			return values, breaker.Seq, nil
		}
		r.complain(err)
		select {
		case <-s.stop.Done():
			return 0, 0, s.stop.Err()
		case <-s.cut.Done():
			return 0, 0, context.Cause(s.cut)
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
	if f := r.loseTenure.Load(); f != nil {
		(*f)(why)
	}
}

func (r *runner) wakePolls() {
	for _, p := range r.polls {
		p.wake()
	}
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
	for _, p := range r.polls {
		for _, was := range old.polls {
			if was.topic == p.topic {
				p.inherit(was)
			}
		}
	}
}

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

// removedDetail is the last word on a poll that nobody polls any more.
const removedDetail = "taken out of the configuration"

// removedMaxAge is how long that word stands: no renewal follows.
const removedMaxAge = 365 * 24 * time.Hour

// sameAs says that a configuration is the one which is in effect, and that the files
// it names hold the same.
func (r *runner) sameAs(c Source) bool {
	return reflect.DeepEqual(r.config, c.withDefaults()) && r.files == r.config.filesDigest()
}

// runPolls polls until stop ends, and then until what is under way is done; hard
// ends that too.
func (r *runner) runPolls(stop, hard context.Context, t *tenure) {
	var w workers
	var living, watching sync.WaitGroup
	over := make(chan struct{})
	for _, p := range r.polls {
		living.Add(1)
		p.begin(stop, hard, t, &w, living.Done)
	}
	watching.Go(func() {
		for _, end := range []context.Context{stop, hard} {
			select {
			case <-end.Done():
			case <-hard.Done():
			case <-over:
				return
			}
			for _, p := range r.polls {
				w.do(p.advance)
			}
		}
	})
	living.Wait()
	close(over)
	watching.Wait()
	w.wait()
	for _, p := range r.polls {
		p.calls.Wait()
	}
}

// restoreCircuits gives the upstreams what the last owner of the source left.
func (r *runner) restoreCircuits(polls map[string]remains, breaker bus.Message) {
	var fresh []handedOver
	for _, left := range polls {
		if f := left.fresh; f != nil {
			fresh = append(fresh, handedOver{left.circuits, f.Fence, f.CheckedAt})
		}
	}
	r.upstreams.restore(fresh, breaker.Breaker, breaker.Circuits)
}
