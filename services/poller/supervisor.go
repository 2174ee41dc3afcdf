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

// supervisor keeps one source going. It waits for the lease, renews it, and has a
// runner poll while this poller holds it. A reload gives it another runner and does not
// touch the lease. It is the source's lease.Claimant. Its methods may be called by
// several goroutines, but for those of its own goroutine, which run calls.
type supervisor struct {
	name    string
	log     *slog.Logger
	lines   history.Lines // the last lines of the log, for the status
	metrics *metrics
	runner  atomic.Pointer[runner.Runner] // with the configuration in effect
	lease   atomic.Pointer[lease.Lease]   // nil before start
	tenure  atomic.Pointer[lease.Tenure]  // nil while another poller holds the lease
	done    sync.WaitGroup                // waits for the end of run

	mu      sync.Mutex // guards what follows
	started bool
	ended   bool
	stop    context.CancelCauseFunc // ends the wait for the lease, or the session; nil between them
	next    *change                 // requested by a reload and not made yet
}

// change is what a reload requests of a supervisor.
type change struct {
	runner *runner.Runner // nil: the source was removed
	made   chan struct{}  // closed when the change is made, or will never be
}

// errReplaced ends a session because the source has another configuration. The other
// reasons are the end of the poller, runner.ErrRemoved and lease.ErrGiven.
var errReplaced = errors.New("source has another configuration")

// grace is how long a session that was stopped waits for calls and publishes that are
// under way.
const grace = 2 * time.Second

// newSupervisor makes a supervisor, which needs a runner before it is started.
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

// run is the supervisor's goroutine: one tenure after another.
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

// acquire waits for the lease. It returns nil when ctx ends or a change is requested.
func (s *supervisor) acquire(ctx context.Context, l *lease.Lease) *lease.Tenure {
	ctx, stop := s.stoppable(ctx)
	defer stop()
	t, err := l.Acquire(ctx)
	if err != nil {
		return nil
	}
	return t
}

// stoppable returns a context that change and Give end. Their reason is its cause.
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

// serve polls for one tenure: in one session, and another one for each change of the
// configuration. Beside them it renews the lease. At the end it gives the lease back
// unless the lease is lost.
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
	session := runner.Session{Tenure: t, To: to, Lose: lose, Polling: func() { s.tenure.Store(t) }}
	why := s.session(ctx, held, session)
	for errors.Is(why, errReplaced) && held.Err() == nil && t.Valid() {
		s.makeChange()
		session.Continued = true
		why = s.session(ctx, held, session)
	}
	s.tenure.Store(nil)
	endRenewing()
	renewals.Wait()
	s.release(ctx, l, t, context.Cause(held), why)
}

// session has the runner poll until ctx ends, a change is requested, or the lease is
// given back or lost. held ends when the lease is lost. session returns why it was
// stopped, or nil if the lease was lost.
func (s *supervisor) session(ctx, held context.Context, session runner.Session) error {
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
	session.Stop, session.Cut = stop, cut
	s.runner.Load().Serve(session)
	return context.Cause(stop)
}

// release gives the lease back at the end of a tenure. If another poller holds it by
// then, that changes nothing. lost is why the lease was lost, or nil; why is why the
// last session ended.
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
		s.log.Warn("lease not released; it ends when it is not renewed", "error", err)
	}
}

// change requests another runner or, with nil, the end of the source. The channel is
// closed when the change is made, or never will be because the supervisor has ended.
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

// reason is the cause with which a change ends a session.
func (c *change) reason() error {
	if c.runner == nil {
		return runner.ErrRemoved
	}
	return errReplaced
}

// makeChange makes the change that was requested, if any. It returns false when the
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

// replace takes the requested runner, if any, in place of the one before, which has
// ended. It is called with mu held.
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

// end notes that no further change will be made.
func (s *supervisor) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.refuse()
}

// refuse drops a change that was requested too late. It is called with mu held.
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

// connectionBack ends pauses that waited for the connection to NATS.
func (s *supervisor) connectionBack() {
	if l := s.lease.Load(); l != nil {
		l.Wake()
	}
	s.runner.Load().WakePolls()
}

// Name implements lease.Claimant.
func (s *supervisor) Name() string { return s.name }

// Lease implements lease.Claimant.
func (s *supervisor) Lease() *lease.Lease { return s.lease.Load() }

// Owned implements lease.Claimant: this poller holds the lease and polls.
func (s *supervisor) Owned() bool {
	t := s.tenure.Load()
	return t != nil && t.Valid()
}

// Since implements lease.Claimant.
func (s *supervisor) Since() time.Time {
	if t := s.tenure.Load(); t != nil {
		return t.Start
	}
	return time.Time{}
}

// Give implements lease.Claimant: it ends the session, and calls that are under way may
// finish.
func (s *supervisor) Give() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil && s.tenure.Load() != nil {
		s.stop(lease.ErrGiven)
	}
}
