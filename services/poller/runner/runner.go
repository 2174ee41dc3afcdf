package runner

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
	"github.com/pollcast/pollcast/services/poller/ask"
	"github.com/pollcast/pollcast/services/poller/breaker"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/history"
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/lease"
	"github.com/pollcast/pollcast/services/poller/poll"
	"github.com/pollcast/pollcast/services/poller/record"
	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/drivers"
	"github.com/pollcast/pollcast/services/poller/walk"
	"github.com/prometheus/client_golang/prometheus"
)

// errRemoved ends a session when the source was taken out of the configuration.
var ErrRemoved = errors.New("source was taken out of the configuration")

// runner polls one source as it is configured, one session after another.
type Runner struct {
	Name      string
	config    config.Source
	files     [sha256.Size]byte // digest of those that config names
	Upstreams *ask.Upstreams
	Polls     []*poll.Poll
	log       *slog.Logger
	metrics   *Metrics

	// What a tenure needs of the poller; tests of a runner bring their own.
	to         poll.Stream // where its records go; nil before the first tenure
	ComplainTo func(error)
	Pulse      *clock.Pulse

	loseTenure atomic.Pointer[func(error)]
	breakers   transitionQueue
	orphans    map[string]record.Recovered // polls in the stream that the configuration lacks
	closed     sync.Once
	turns      history.Transitions
}

// newRunner makes a source of a checked configuration. close frees it.
func New(name string, c config.Source, log *slog.Logger, m *Metrics) (*Runner, error) {
	c = c.WithDefaults()
	r := &Runner{Name: name, config: c, files: c.FilesDigest(), Upstreams: new(ask.Upstreams), metrics: m, ComplainTo: func(error) {}}
	r.log = log.With("source", name)
	header, _ := c.Credentials()
	secrets := config.SecretsOf(c)
	certificates, err := source.NewCertificates(c.TLS.Files(), r.noteCertificates)
	if err != nil {
		return nil, fmt.Errorf("%w: sources.%s: %w", config.ErrConfig, name, err)
	}
	names, slowest := map[string]int{}, time.Duration(0)
	for _, pc := range c.Polls {
		slowest = max(slowest, pc.WithDefaults(c).Interval)
	}
	for _, address := range c.Upstreams {
		u := &ask.Upstream{Name: config.DisplayName(address, names), Secrets: secrets}
		u.Call, u.Free, err = drivers.All[c.Driver].Open(source.Endpoint{
			URL: address, Header: maps.Clone(header), TLS: certificates, MaxAnswer: int64(c.MaxAnswer), Secrets: secrets,
			Idle: source.IdleTime(slowest), Batch: c.Batch, Descriptors: c.Descriptors, Notice: func(message string, facts ...any) { r.log.Info(message, append(facts, "upstream", u.Name)...) },
		})
		if err != nil {
			r.Close()
			return nil, fmt.Errorf("open upstream %s of source %s: %w", u.Name, name, err)
		}
		if u.Circuit, err = breaker.New(name, u.Name, breaker.Rule(c.Breaker), r.announce); err != nil {
			u.Free()
			r.Close()
			return nil, fmt.Errorf("make circuit of source %s: %w", name, err)
		}
		u.Quota = &breaker.Quota{Limit: c.MaxCallsPerMinute}
		u.Withheld, u.Calls = m.withheld.WithLabelValues(name, u.Name), map[ask.CallKind]prometheus.Counter{}
		for _, k := range ask.CallKinds {
			u.Calls[k] = m.calls.WithLabelValues(name, u.Name, string(k))
		}
		for _, to := range []event.State{event.Closed, event.HalfOpen, event.Open} {
			m.transitions.WithLabelValues(name, u.Name, string(to))
		}
		r.Upstreams.List = append(r.Upstreams.List, u)
	}
	for i, pollName := range jq.SortedKeys(c.Polls) {
		pc := c.Polls[pollName].WithDefaults(c)
		topic := name + "." + pollName
		p := &poll.Poll{
			Asker: &ask.Asker{
				Topic: topic, Index: i, Config: pc, Source: c, Upstreams: r.Upstreams,
				MaxPayload: r.maxPayload, Stood: func() time.Duration { return r.Pulse.Stood() },
			},
			Host: r, Schedule: config.NewSchedule(topic, pc.Interval), Attempts: new(history.Attempts), Lines: &history.Lines{Most: history.PollLines},
			Counts: m.polls.Of(topic),
			Keys:   map[string]*poll.Keyed{}, Always: pc.Emit == config.EmitAlways,
		}
		p.Log = history.Remember(log.With("poll", topic), p.Lines)
		if c.Batch { // one turn for all, so that their calls meet
			p.Schedule = config.NewSchedule(name, pc.Interval)
			p.Schedule.Exact = true
		}
		var bad []jq.KeyError
		if pc.Follow != nil {
			var err error
			p.Follow = new(poll.Follower)
			if p.Follow.Sequence, p.Question, err = walk.NewSequence(pc); err != nil {
				r.Close()
				return nil, fmt.Errorf("poll %s: %w", topic, err)
			}
			p.ReadHead = p.Follow.HeadOf
		} else if p.Question, bad = pc.Question(); len(bad) > 0 {
			r.Close()
			return nil, fmt.Errorf("poll %s: %s: %w", topic, bad[0].Key, bad[0].Err)
		}
		if p.Shape, bad = pc.Shape(); len(bad) > 0 {
			r.Close()
			return nil, fmt.Errorf("poll %s: %s: %w", topic, bad[0].Key, bad[0].Err)
		}
		for _, s := range jq.SortedKeys(pc.Deadband) {
			b, err := jq.NewBand(s, pc.Deadband[s])
			if err != nil {
				r.Close()
				return nil, fmt.Errorf("poll %s: deadband: %w", topic, err)
			}
			p.Bands = append(p.Bands, b)
		}
		for _, s := range pc.Ignore {
			parsed, err := jq.ParsePath(s)
			if err != nil {
				r.Close()
				return nil, fmt.Errorf("poll %s: ignore: %w", topic, err)
			}
			p.Ignore = append(p.Ignore, parsed)
		}
		r.Polls = append(r.Polls, p)
	}
	return r, nil
}

func (r *Runner) noteCertificates(text string, err error) {
	if err != nil {
		r.log.Warn(text, "error", err)
		return
	}
	r.log.Info(text)
}

func (r *Runner) Close() {
	r.closed.Do(func() {
		for _, u := range r.Upstreams.List {
			u.Free()
			if !u.Moved {
				u.Circuit.Free()
			}
		}
	})
}

// session is one time of polling under a lease.
type Session struct {
	Stop, Cut context.Context // cut ends what stop lets finish
	Tenure    *lease.Tenure
	To        *record.Publisher
	Continued bool        // another runner of the source polled before, under the same tenure
	Lose      func(error) // ends the tenure at once
	Polling   func()      // called when what the stream holds is known
}

// serve polls until stop ends. Then it lets calls and publishes that are under way
// finish, until cut ends.
func (r *Runner) Serve(s Session) {
	r.to = s.To
	r.loseTenure.Store(&s.Lose)
	values, guard, err := r.restore(s)
	if err != nil {
		return
	}
	s.Polling()
	if s.Continued {
		r.log.Info("polling goes on as configured now", "polls", len(r.Polls), "values_restored", values, "fence", s.Tenure.Fence)
	} else {
		r.metrics.LeaseChanges.WithLabelValues(r.Name, "acquired").Inc()
		r.log.Info("lease acquired, polling", "polls", len(r.Polls), "values_restored", values, "fence", s.Tenure.Fence, "why", s.Tenure.Why)
	}
	r.work(s.Stop, s.Cut, s.Tenure, s.To, guard)
	if errors.Is(context.Cause(s.Stop), ErrRemoved) {
		r.leave(s.Cut, s.Tenure, s.To)
	}
}

// work runs the polls and says the breaker's transitions until both are done.
func (r *Runner) work(stop, hard context.Context, t *lease.Tenure, pub *record.Publisher, guard uint64) {
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
func (r *Runner) restore(s Session) (values int, guard uint64, err error) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		polls, breaker, err := s.To.ReadSource(s.Cut, r.Name)
		if err == nil {
			// The bucket of the leases may have been made anew, and count from 1.
			for _, left := range polls {
				s.Tenure.Fence = max(s.Tenure.Fence, left.Fence()+1)
			}
			if breaker.Breaker != nil {
				s.Tenure.Fence = max(s.Tenure.Fence, breaker.Breaker.Fence+1)
			}
			r.restoreCircuits(polls, breaker)
			if r.breakers.forget(breaker.Breaker); breaker.Breaker == nil {
				r.StreamAnew()
			}
			for _, p := range r.Polls {
				p.Resume(polls[p.Topic])
				if p.Good.Value != nil || p.Follow != nil && p.Follow.At.Known {
					values++
				}
				values += p.Live()
				delete(polls, p.Topic)
				if s.Tenure.HandedOver && !s.Continued {
					p.SkipFirst(clock.Now())
				}
			}
			r.orphans = polls
			return values, breaker.Seq, nil
		}
		r.Complain(err)
		select {
		case <-s.Stop.Done():
			return 0, 0, s.Stop.Err()
		case <-s.Cut.Done():
			return 0, 0, context.Cause(s.Cut)
		case <-time.After(wait):
		}
	}
}

func (r *Runner) Stream() poll.Stream { return r.to }

func (r *Runner) maxPayload(size int) int64 {
	if r.to == nil {
		return 0
	}
	return r.to.MaxPayload(size)
}

func (r *Runner) Complain(err error) { r.ComplainTo(err) }

// lose ends the tenure at once.
func (r *Runner) Lose(why error) {
	if f := r.loseTenure.Load(); f != nil {
		(*f)(why)
	}
}

func (r *Runner) WakePolls() {
	for _, p := range r.Polls {
		p.Wake()
	}
}

// announce is told every transition of a circuit, under its mutex.
func (r *Runner) announce(b event.Breaker) {
	log := r.log.With("upstream", b.Upstream)
	switch {
	case b.To == event.Closed:
		log.Info("breaker closed: the upstream answers again")
	case b.To == event.HalfOpen:
		r.Upstreams.Probes.Add(1)
		log.Info("breaker lets one probe through")
	case b.From == event.HalfOpen:
		log.Warn("probe failed, breaker stays open", "cause", b.Cause, "failures", b.Failures, "next_probe", b.NextProbeAt)
	default:
		log.Warn("breaker opened", "cause", b.Cause, "failures", b.Failures, "next_probe", b.NextProbeAt)
	}
	r.metrics.transitions.WithLabelValues(r.Name, b.Upstream, string(b.To)).Inc()
	r.turns.Add(b)
	r.breakers.push(b)
	r.WakePolls()
}

// inherit takes over what a former runner of the same source knows and the
// stream perhaps does not: neither of them runs.
func (r *Runner) Inherit(old *Runner) {
	for _, u := range r.Upstreams.List {
		for _, was := range old.Upstreams.List {
			if was.Name == u.Name {
				u.Circuit.Free()
				u.Circuit, was.Moved = was.Circuit, true
				u.Quota = was.Quota
				u.Quota.SetLimit(r.config.MaxCallsPerMinute)
				u.Circuit.Rebind(breaker.Rule(r.config.Breaker), r.announce)
			}
		}
	}
	r.Upstreams.Probes.Store(old.Upstreams.Probes.Load())
	r.breakers.inherit(&old.breakers)
	r.turns.Inherit(&old.turns)
	for _, p := range r.Polls {
		for _, was := range old.Polls {
			if was.Topic == p.Topic {
				p.Inherit(was)
			}
		}
	}
}

// leave says the last word on all polls of the source.
func (r *Runner) leave(ctx context.Context, t *lease.Tenure, pub *record.Publisher) {
	polls, _, err := pub.ReadSource(ctx, r.Name)
	if err != nil {
		r.log.Warn("values of a removed source not marked as stale; they become so by silence", "error", err)
		return
	}
	r.farewell(ctx, t, pub, polls)
}

// farewell marks polls of the source as stale for good, since nobody polls them
// any more. Their last values stay in the stream.
func (r *Runner) farewell(ctx context.Context, t *lease.Tenure, pub *record.Publisher, polls map[string]record.Recovered) {
	for _, topic := range jq.SortedKeys(polls) {
		if err := r.lastWord(ctx, t, pub, topic, polls[topic]); err != nil {
			if ctx.Err() == nil {
				r.log.Warn("value of a removed poll not marked as stale; it becomes so by silence", "poll", topic, "error", err)
			}
			return
		}
	}
}

func (r *Runner) lastWord(ctx context.Context, t *lease.Tenure, pub *record.Publisher, topic string, left record.Recovered) error {
	var st record.Stored
	st.Learn(left, nil)
	err := record.ErrAgain
	for range 5 {
		if st.Fresh == nil || st.Fresh.Stale && st.Fresh.Detail == RemovedDetail {
			return nil
		}
		f := *st.Fresh
		f.Stale, f.Reason, f.Detail = true, event.PollerSilent, RemovedDetail
		f.Breaker, f.NextProbeAt, f.ConsecutiveFailures = event.Closed, time.Time{}, 0
		f.MaxAgeMs = removedMaxAge.Milliseconds()
		if f.CheckedAt = clock.Stamp(time.Now()); !f.CheckedAt.After(st.Fresh.CheckedAt) {
			f.CheckedAt = st.Fresh.CheckedAt.Add(time.Millisecond)
		}
		if st, err = pub.Put(ctx, record.Job{Topic: topic, Fresh: &f, Known: st, Tenure: t}); err == nil {
			r.log.Info("poll was taken out of the configuration; its last value stays, stale", "poll", topic)
			return nil
		} else if !errors.Is(err, record.ErrAgain) {
			break
		}
	}
	return fmt.Errorf("say the last word on %s: %w", topic, err)
}

// removedDetail is the last word on a poll that nobody polls any more.
const RemovedDetail = "taken out of the configuration"

// removedMaxAge is how long that word stands: no renewal follows.
const removedMaxAge = 365 * 24 * time.Hour

// sameAs says that a configuration is the one which is in effect, and that the files
// it names hold the same.
func (r *Runner) SameAs(c config.Source) bool {
	return reflect.DeepEqual(r.config, c.WithDefaults()) && r.files == r.config.FilesDigest()
}

// runPolls polls until stop ends, and then until what is under way is done; hard
// ends that too.
func (r *Runner) runPolls(stop, hard context.Context, t *lease.Tenure) {
	var w poll.Workers
	var living, watching sync.WaitGroup
	over := make(chan struct{})
	for _, p := range r.Polls {
		living.Add(1)
		p.Begin(stop, hard, t, &w, living.Done)
	}
	watching.Go(func() {
		for _, end := range []context.Context{stop, hard} {
			select {
			case <-end.Done():
			case <-hard.Done():
			case <-over:
				return
			}
			for _, p := range r.Polls {
				w.Do(p.Advance)
			}
		}
	})
	living.Wait()
	close(over)
	watching.Wait()
	w.Wait()
	for _, p := range r.Polls {
		p.Calls.Wait()
	}
}

// restoreCircuits gives the upstreams what the last owner of the source left.
func (r *Runner) restoreCircuits(polls map[string]record.Recovered, breaker bus.Message) {
	var fresh []ask.Record
	for _, left := range polls {
		if f := left.Fresh; f != nil {
			fresh = append(fresh, ask.Record{Circuits: left.Circuits, Fence: f.Fence, At: f.CheckedAt})
		}
	}
	r.Upstreams.Restore(fresh, breaker.Breaker, breaker.Circuits)
}
