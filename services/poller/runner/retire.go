package runner

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/record"
)

// RemovedDetail is the detail of the last record of a poll that nobody polls any more.
const RemovedDetail = "taken out of the configuration"

// removedMaxAge is how long that record holds: no renewal follows.
const removedMaxAge = 365 * 24 * time.Hour

// retireAll publishes the last record of all polls of the source.
func (r *Runner) retireAll(s Session) {
	polls, _, err := s.To.ReadSource(s.Cut, r.Name)
	if err != nil {
		r.log.Warn("values of a removed source not marked as stale; they become so by silence", "error", err)
		return
	}
	r.retire(s, polls)
}

// retire marks polls of the source as stale for good, since nobody polls them any more.
// Their last values stay in the stream.
func (r *Runner) retire(s Session, polls map[string]record.Recovered) {
	for _, topic := range slices.Sorted(maps.Keys(polls)) {
		if err := r.retirePoll(s, topic, polls[topic]); err != nil {
			if s.Cut.Err() == nil {
				r.log.Warn("value of a removed poll not marked as stale; it becomes so by silence", "poll", topic, "error", err)
			}
			return
		}
	}
}

func (r *Runner) retirePoll(s Session, topic string, recovered record.Recovered) error {
	var st record.State
	st.Learn(recovered)
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
		st, err = s.To.Put(s.Cut, record.Job{Topic: topic, Fresh: &f, Known: st, Tenure: s.Tenure})
		if err == nil {
			r.log.Info("poll was taken out of the configuration; its last value stays, stale", "poll", topic)
			return nil
		}
		if !errors.Is(err, record.ErrAgain) {
			break
		}
	}
	return fmt.Errorf("publish the last record of %s: %w", topic, err)
}
