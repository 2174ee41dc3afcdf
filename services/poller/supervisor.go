package poller

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/services/poller/history"
	"github.com/pollcast/pollcast/services/poller/lease"
	"github.com/pollcast/pollcast/services/poller/record"
	"github.com/pollcast/pollcast/services/poller/runner"
)

// supervisor keeps one source going: it waits for the lease, renews it, and has a
// runner poll while it is held. A reload gives it another runner and leaves the
// lease alone. It is the source's claimant among the pollers.
type supervisor struct {
	name    string
	log     *slog.Logger
	lines   history.Lines // of the log
	metrics *metrics
	runner  atomic.Pointer[runner.Runner] // with the configuration in effect
	lease   atomic.Pointer[lease.Lease]   // nil before the start
	tenure  atomic.Pointer[lease.Tenure]  // nil while another poller holds the lease
	done    sync.WaitGroup                // ends with run

	mu      sync.Mutex
	started bool
	ended   bool
	stop    context.CancelCauseFunc // ends the wait for the lease, or the runner's session; nil between them
	next    *change                 // asked for and not made yet
}

// change is what a reload asks of a supervisor.
type change struct {
	runner *runner.Runner // nil: the source was removed
	made   chan struct{}  // closed when the change is made, or will never be
}

// Why a runner's session ends, beside the end of the poller and of the lease.
var errReplaced = errors.New("source has another configuration")

// grace is how long a session that was stopped waits for calls and publishes that
// are under way.
const grace = 2 * time.Second

// newSupervisor makes a supervisor that still needs a runner.
func newSupervisor(name string, log *slog.Logger, m *metrics) *supervisor {
	s := &supervisor{name: name, metrics: m}
	s.lines.Most = history.SourceLines
	s.log = history.Remember(log.With("source", name), &s.lines)
	return s
}

// start runs the source until ctx ends or the source is removed.
func (s *supervisor) start(ctx context.Context, l *lease.Lease, to *record.Publisher) {
	s.lease.Store(l)
	s.mu.Lock()
	s.started = true
	s.mu.Unlock()
	s.done.Go(func() { s.run(ctx, l, to) })
}

func (s *supervisor) run(ctx context.Context, l *lease.Lease, to *record.Publisher) {
	defer s.end()
	for ctx.Err() == nil {
		t := s.acquire(ctx, l)
		if t != nil {
			s.serve(ctx, l, t, to)
		}
		if !s.makeChange() {
			return
		}
	}
}

// acquire waits for the lease. It returns nil when ctx ends or a change is asked for.
func (s *supervisor) acquire(ctx context.Context, l *lease.Lease) *lease.Tenure {
	ctx, stop := s.stoppable(ctx)
	defer stop()
	t, err := l.Acquire(ctx)
	if err != nil {
		return nil
	}
	return t
}

// stoppable returns a context that a change, or give, ends with its reason as the
// cause.
func (s *supervisor) stoppable(ctx context.Context) (context.Context, func()) {
	ctx, stop := context.WithCancelCause(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop = stop
	if s.next != nil {
		stop(s.next.reason())
	}
	return ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.stop = nil
		stop(nil)
	}
}

// serve polls under a tenure: one session, and another one for each change of the
// configuration. Meanwhile it renews the lease. At the end it gives the lease back,
// if it is not lost.
func (s *supervisor) serve(ctx context.Context, l *lease.Lease, t *lease.Tenure, to *record.Publisher) {
	held, lose := context.WithCancelCause(context.WithoutCancel(ctx))
	defer lose(nil)
	renewing, endRenewing := context.WithCancel(context.WithoutCancel(ctx))
	defer endRenewing()
	var renewals sync.WaitGroup
	renewals.Go(func() {
		if err := l.Hold(renewing, t); err != nil {
			lose(err)
		}
	})
	why := s.session(ctx, held, t, to, false, lose)
	for errors.Is(why, errReplaced) && held.Err() == nil && t.Valid() {
		s.makeChange()
		why = s.session(ctx, held, t, to, true, lose)
	}
	s.tenure.Store(nil)
	endRenewing()
	renewals.Wait()
	s.release(ctx, l, t, context.Cause(held), why)
}

// session has the runner poll until ctx ends, a change is asked for, the lease is
// given to another poller or is lost. It returns why it was stopped, or nil.
// continued says that another session of the tenure came before.
func (s *supervisor) session(ctx, held context.Context, t *lease.Tenure, to *record.Publisher, continued bool, lose func(error)) error {
	stop, end := s.stoppable(ctx)
	defer end()
	cut, cancel := context.WithCancelCause(held)
	defer cancel(nil)
	defer context.AfterFunc(stop, func() {
		select {
		case <-cut.Done():
		case <-time.After(grace):
			cancel(context.DeadlineExceeded)
		}
	})()
	r := s.runner.Load()
	r.Serve(runner.Session{
		Stop: stop, Cut: cut, Tenure: t, To: to, Continued: continued, Lose: lose,
		Polling: func() { s.tenure.Store(t) },
	})
	return context.Cause(stop)
}

// release gives the lease back at the end of a tenure, also one that somebody else
// got meanwhile: then it changes nothing. lost is why the lease was lost, or nil.
func (s *supervisor) release(ctx context.Context, l *lease.Lease, t *lease.Tenure, lost, why error) {
	if lost != nil {
		s.metrics.runner.LeaseChanges.WithLabelValues(s.name, "lost").Inc()
		s.log.Warn("lease lost, polling stopped", "cause", lost)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	err := l.Release(ctx, t)
	switch {
	case err == nil:
		change := "released"
		if errors.Is(why, lease.ErrGiven) {
			change = "given"
		}
		s.metrics.runner.LeaseChanges.WithLabelValues(s.name, change).Inc()
		s.log.Info("lease released")
	case lost == nil:
		s.log.Warn("lease not released; it ends by itself", "error", err)
	}
}

// change asks for another runner, or with nil for the source's end. What it returns
// is closed when that is done, or the supervisor has ended.
func (s *supervisor) change(next *runner.Runner) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &change{runner: next, made: make(chan struct{})}
	s.next = c
	switch {
	case s.ended:
		s.refuse()
	case !s.started && next == nil:
		s.next = nil
		close(c.made)
	case !s.started:
		s.replace()
	case s.stop != nil:
		s.stop(c.reason())
	}
	return c.made
}

func (c *change) reason() error {
	if c.runner == nil {
		return runner.ErrRemoved
	}
	return errReplaced
}

// makeChange makes a change that was asked for, if any. It returns false when the
// source was removed.
func (s *supervisor) makeChange() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next != nil && s.next.runner == nil {
		return false
	}
	s.replace()
	return true
}

// replace puts the next runner in the place of the one before, with mu held. Neither
// of them runs.
func (s *supervisor) replace() {
	c := s.next
	if c == nil || c.runner == nil {
		return
	}
	old := s.runner.Load()
	c.runner.Inherit(old)
	s.runner.Store(c.runner)
	old.Close()
	s.next = nil
	close(c.made)
}

// end notes that no change will be made any more.
func (s *supervisor) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.refuse()
}

// refuse drops a change that comes too late, with mu held.
func (s *supervisor) refuse() {
	c := s.next
	if c == nil {
		return
	}
	if c.runner != nil {
		c.runner.Close()
	}
	s.next = nil
	close(c.made)
}

// natsBack is called when the connection returns: what waits need not wait.
func (s *supervisor) natsBack() {
	if l := s.lease.Load(); l != nil {
		l.Wake()
	}
	s.runner.Load().WakePolls()
}

// The claimant of the lease.

func (s *supervisor) Name() string { return s.name }

func (s *supervisor) Lease() *lease.Lease { return s.lease.Load() }

func (s *supervisor) Owned() bool {
	t := s.tenure.Load()
	return t != nil && t.Valid()
}

// Since is when the tenure began; zero without one.
func (s *supervisor) Since() time.Time {
	if t := s.tenure.Load(); t != nil {
		return t.Start
	}
	return time.Time{}
}

// Give ends the tenure as a stop does: what is under way finishes.
func (s *supervisor) Give() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil && s.tenure.Load() != nil {
		s.stop(lease.ErrGiven)
	}
}
