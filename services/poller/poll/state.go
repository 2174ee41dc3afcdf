package poll

import (
	"errors"
	"slices"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/ask"
	"github.com/pollcast/pollcast/services/poller/breaker"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/history"
	"github.com/pollcast/pollcast/services/poller/walk"
)

// state is all that a poll knows. Its methods are called with the poll's mutex, which
// guards it.
type state struct {
	*ask.Asker
	schedule *config.Schedule
	host     Host
	counts   *history.Counts
	attempts *history.Attempts

	ticks  ticks
	trust  trust
	topics topics
	kind   kind
	outbox outbox
	last   lastTick
	ran    bool // there was a tenure
}

// lastTick is the last tick, for the status.
type lastTick struct {
	outcome string
	at      time.Time
	took    time.Duration
}

// take learns from a reading, and from what was found after it. A tick for a probe that
// failed while another upstream's circuit is closed says nothing about the value.
func (s *state) take(r ask.Reading, found *walk.Walked, k tickKind) {
	if r.Report() { // the records of other polls may speak of it
		s.host.WakePolls()
	}
	now := clock.Now()
	if s.ticks.starved = r.Starved && r.Abandoned; s.ticks.starved && k != probeTick {
		s.ticks.extraAt = now.Add(s.schedule.Start())
	}
	if r.Abandoned {
		return
	}
	s.outbox.renew = s.outbox.renew || r.Failure == nil && r.FailedOver() // for the next holder
	outcome := history.OutcomeOK
	switch {
	case r.Failure != nil:
		outcome = string(r.Failure.Reason)
	case s.kind.standsStill(r, now):
		outcome = string(event.NotAdvancing)
	}
	s.count(outcome, now, r.Took, r.Up)
	s.counts.Duration(r.Took)
	s.kind.keep(r, found, now)
	state, _, _ := s.Upstreams.State()
	if f := r.Failure; f != nil {
		if k != probeTick || !f.Counts || state != event.Closed {
			s.judge(s.trust.failed(f), now)
		}
		return
	}
	s.kind.take(r)
	s.topics.forgetGone(now)
	s.trust.failures = 0
	if state != event.Closed { // the call began before the circuit opened
		s.judge(s.open(), now)
	} else if v, ok := s.kind.verdict(now); ok {
		s.judge(v, now)
	}
}

// refused is a tick in which no upstream could be asked.
func (s *state) refused(k tickKind, err error, now time.Time) {
	switch {
	case k == probeTick: // another poll was first
	case errors.Is(err, breaker.ErrQuota):
		// The value is as good as its age. Readers would take it for stale by silence;
		// the poller says it itself.
		s.skip(1)
		if now.Sub(s.trust.asOf) > s.Config.MaxAge {
			s.judge(stale(event.PollerSilent, "not asked: "+err.Error()), now)
		}
	case errors.Is(err, breaker.ErrWait):
		s.skip(1)
		s.checked(now)
		s.judge(stale(event.UpstreamError, "upstream asked to wait (Retry-After)"), now)
	default:
		s.count(string(event.BreakerOpen), now, 0, nil)
		s.judge(s.open(), now)
	}
}

// open is the verdict while all circuits are open: because of the poll's own last
// failure, or of what opened the circuit.
func (s *state) open() verdict {
	detail := s.trust.detail
	if !s.trust.stale || detail == "" {
		_, _, detail = s.Upstreams.State()
	}
	return stale(event.BreakerOpen, detail)
}

// judge makes a verdict the one that holds. Nothing else does.
func (s *state) judge(v verdict, now time.Time) {
	t := &s.trust
	switch {
	case v.stale && (!t.stale || !t.known) && t.asOf.IsZero():
		s.Log.Warn("no value yet", "reason", v.reason, "detail", t.full.For(v.detail))
	case v.stale && (!t.stale || !t.known):
		s.Log.Warn("value is stale", "reason", v.reason, "detail", t.full.For(v.detail), "age", age(now, t.asOf))
	case !v.stale && t.stale:
		s.Log.Info("value is fresh again", "stale_for", age(now, t.since))
	}
	t.set(v, now)
}

// count keeps a tick's outcome; up is nil if no upstream was asked.
func (s *state) count(outcome string, now time.Time, took time.Duration, up *ask.Upstream) {
	s.attempts.Add(outcome, now.Add(-took), took, slices.Index(s.Upstreams.List, up))
	s.counts.Outcome(outcome)
	s.last = lastTick{outcome, now, took}
	s.checked(now)
}

// checked notes that the value was looked at, and whether its record is to be renewed.
func (s *state) checked(now time.Time) {
	s.trust.checkedAt = clock.Stamp(now)
	s.outbox.renew = s.outbox.renew || s.outbox.renewalDue(s.Config.Interval, s.Config.MaxAge, now)
}

func (s *state) skip(n uint64) {
	s.ticks.skipped += n
	s.counts.Skipped.Add(n)
}

// reflect looks at the source's circuits: while all are open nothing confirms the
// value, so that it is stale even before its own next tick; when one closes the poll
// need not wait for that tick; and somebody has to probe.
func (s *state) reflect(now time.Time) {
	state, _, _ := s.Upstreams.State()
	switch t := &s.trust; {
	case state != event.Closed && t.known && !t.stale && !s.ticks.calling:
		s.judge(s.open(), now)
	case state == event.Closed && t.stale && t.reason == event.BreakerOpen && s.ticks.extraAt.IsZero():
		s.ticks.extraAt = now.Add(s.schedule.Start())
	}
	if s.ticks.probeAt = s.Upstreams.NextProbe(); !s.ticks.probeAt.IsZero() {
		at := s.ticks.probeAt.Add(s.Upstreams.ProbeDelay(s.Index, len(s.Source.Polls)))
		s.ticks.probe(at, now, state == event.Closed, config.NewPace(s.Source, s.Config).Tick())
	}
}

func (s *state) notAdvancing() verdict {
	return stale(event.NotAdvancing,
		"answers, but has not advanced for more than "+s.Config.MustAdvance.Within.String()+" (mustAdvance)")
}
