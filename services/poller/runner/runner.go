package runner

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
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
	"github.com/pollcast/pollcast/services/poller/lease"
	"github.com/pollcast/pollcast/services/poller/poll"
	"github.com/pollcast/pollcast/services/poller/record"
)

// ErrRemoved ends a session when the source was taken out of the configuration.
var ErrRemoved = errors.New("source was taken out of the configuration")

// Runner polls one source as it is configured, one session after another. It is the
// host of the source's polls.
type Runner struct {
	Name      string
	Upstreams *ask.Upstreams
	Polls     []*poll.Poll
	config    config.Source
	files     [sha256.Size]byte // digest of those that config names
	log       *slog.Logger
	metrics   *Metrics

	// These come from the poller. Tests of a runner bring their own.
	to         poll.Stream // where its records go; nil before the first session
	ComplainTo func(error)
	Pulse      *clock.Pulse

	loseTenure  atomic.Pointer[func(error)]
	queue       transitionQueue
	transitions history.Transitions
	orphans     map[string]record.Recovered // polls in the stream that the configuration lacks
	closed      sync.Once
}

// SameAs says that a configuration is the one in effect, and that the files which it
// names hold the same.
func (r *Runner) SameAs(c config.Source) bool {
	return reflect.DeepEqual(r.config, c.WithDefaults()) && r.files == r.config.FilesDigest()
}

// Close frees the upstreams. The runner must not run.
func (r *Runner) Close() {
	r.closed.Do(r.Upstreams.Close)
}

// Inherit takes over what a former runner of the same source knows and the stream
// perhaps does not. Neither of them runs.
func (r *Runner) Inherit(old *Runner) {
	r.Upstreams.Inherit(old.Upstreams, breaker.Rule(r.config.Breaker), r.config.MaxCallsPerMinute, r.announce)
	r.queue.inherit(&old.queue)
	r.transitions.Inherit(&old.transitions)
	for _, p := range r.Polls {
		for _, was := range old.Polls {
			if was.Topic == p.Topic {
				p.Inherit(was)
			}
		}
	}
}

// Session is one time of polling under a lease.
type Session struct {
	Stop, Cut context.Context // Cut ends what Stop lets finish
	Tenure    *lease.Tenure
	To        *record.Publisher
	Continued bool        // another runner of the source polled before, under the same tenure
	Lose      func(error) // ends the tenure at once
	Polling   func()      // called when what the stream holds is known
}

// Serve polls until Stop ends. Then it lets calls and publishes that are under way
// finish, until Cut ends.
func (r *Runner) Serve(s Session) {
	r.to = s.To
	r.loseTenure.Store(&s.Lose)
	values, last, err := r.restore(s)
	if err != nil {
		return
	}
	s.Polling()
	facts := []any{"polls", len(r.Polls), "values_restored", values, "fence", s.Tenure.Fence}
	if s.Continued {
		r.log.Info("polling goes on as configured now", facts...)
	} else {
		r.metrics.LeaseChanges.WithLabelValues(r.Name, "acquired").Inc()
		r.log.Info("lease acquired, polling", append(facts, "why", s.Tenure.Why)...)
	}
	r.work(s, last)
	if errors.Is(context.Cause(s.Stop), ErrRemoved) {
		r.retireAll(s)
	}
}

// restore takes up what the last lease holder left in the stream. It tries until it can,
// or either context ends. It returns how many values there are, and the sequence number
// of the last transition.
func (r *Runner) restore(s Session) (values int, last uint64, err error) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		polls, transition, err := s.To.ReadSource(s.Cut, r.Name)
		if err == nil {
			return r.resume(s, polls, transition), transition.Seq, nil
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

// resume takes up what was read from the stream.
func (r *Runner) resume(s Session, polls map[string]record.Recovered, transition bus.Message) (values int) {
	// The bucket of the leases may have been made again, and count from 1.
	for _, recovered := range polls {
		s.Tenure.Fence = max(s.Tenure.Fence, recovered.Fence()+1)
	}
	if transition.Breaker != nil {
		s.Tenure.Fence = max(s.Tenure.Fence, transition.Breaker.Fence+1)
	}
	r.restoreCircuits(polls, transition)
	if r.queue.forget(transition.Breaker); transition.Breaker == nil {
		r.StreamAnew()
	}
	for _, p := range r.Polls {
		p.Resume(polls[p.Topic])
		values += p.Restored()
		delete(polls, p.Topic)
		if s.Tenure.HandedOver && !s.Continued {
			p.SkipFirst(clock.Now())
		}
	}
	r.orphans = polls
	return values
}

// restoreCircuits gives the upstreams what the last lease holder left.
func (r *Runner) restoreCircuits(polls map[string]record.Recovered, transition bus.Message) {
	var fresh []ask.Record
	for _, recovered := range polls {
		if f := recovered.Fresh; f != nil {
			fresh = append(fresh, ask.Record{Circuits: recovered.Circuits, Fence: f.Fence, At: f.CheckedAt})
		}
	}
	r.Upstreams.Restore(fresh, transition.Breaker, transition.Circuits)
}

// work runs the polls and publishes the circuits' transitions until both are done.
func (r *Runner) work(s Session, last uint64) {
	var polls, transitions sync.WaitGroup
	done := make(chan struct{})
	transitions.Go(func() { r.publishTransitions(s, done, last) })
	polls.Go(func() { r.runPolls(s.Stop, s.Cut, s.Tenure) })
	polls.Go(func() { r.retire(s, r.orphans) })
	polls.Wait()
	close(done)
	transitions.Wait()
}

// runPolls polls until stop ends, and then until what is under way is done; cut ends that
// too.
func (r *Runner) runPolls(stop, cut context.Context, t *lease.Tenure) {
	var w poll.Workers
	var polling, watching sync.WaitGroup
	over := make(chan struct{})
	for _, p := range r.Polls {
		polling.Add(1)
		p.Begin(stop, cut, t, &w, polling.Done)
	}
	watching.Go(func() {
		for _, end := range []context.Context{stop, cut} {
			select {
			case <-end.Done():
			case <-cut.Done():
			case <-over:
				return
			}
			for _, p := range r.Polls {
				w.Do(p.Advance)
			}
		}
	})
	polling.Wait()
	close(over)
	watching.Wait()
	w.Wait()
	for _, p := range r.Polls {
		p.Calls.Wait()
	}
}

// announce is called with every transition of a circuit, under the circuit's mutex.
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
	r.transitions.Add(b)
	r.queue.push(b)
	r.WakePolls()
}

// Stream implements poll.Host.
func (r *Runner) Stream() poll.Stream { return r.to }

func (r *Runner) maxPayload(size int) int64 {
	if r.to == nil {
		return 0
	}
	return r.to.MaxPayload(size)
}

// Complain implements poll.Host.
func (r *Runner) Complain(err error) { r.ComplainTo(err) }

// Lose implements poll.Host.
func (r *Runner) Lose(why error) {
	if lose := r.loseTenure.Load(); lose != nil {
		(*lose)(why)
	}
}

// WakePolls implements poll.Host.
func (r *Runner) WakePolls() {
	for _, p := range r.Polls {
		p.Wake()
	}
}

// StreamAnew implements poll.Host: while a circuit is not closed its readers have to know.
func (r *Runner) StreamAnew() {
	for _, c := range r.Upstreams.Memos() {
		if c.State != event.Closed {
			r.queue.repeat()
			return
		}
	}
}
