package runner

import (
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/poll"
)

// Status is one source.
type Status struct {
	Name   string `json:"name"`
	Driver string `json:"driver"`
	// Owned says that this poller holds the lease. Owner is the poller that does, as far
	// as this one has seen.
	Owned bool   `json:"owned"`
	Owner string `json:"owner,omitempty"`
	// OwnedSince and Why say since when the owner has the lease, and why it moved there.
	OwnedSince time.Time        `json:"ownedSince,omitzero"`
	Why        string           `json:"why,omitempty"`
	Fence      uint64           `json:"fence,omitempty"`
	Breaker    event.State      `json:"breaker"`
	Upstreams  []UpstreamStatus `json:"upstreams"`
	Polls      []poll.Status    `json:"polls"` // as of when the source was last owned
	// Log is the last lines of the source's own log, of its lease and its
	// circuits, at most 20.
	Log []string `json:"log"`
}

// UpstreamStatus is one circuit.
type UpstreamStatus struct {
	Name        string      `json:"name"`
	State       event.State `json:"state"`
	Failures    int         `json:"failures"` // in a row
	Cause       string      `json:"cause,omitempty"`
	ChangedAt   time.Time   `json:"changedAt,omitzero"`
	NextProbeAt time.Time   `json:"nextProbeAt,omitzero"`
	WaitUntil   time.Time   `json:"waitUntil,omitzero"` // Retry-After
	// History is the circuit's last 20 changes in this process, the newest first.
	History []event.Breaker `json:"history"`
}

// Status is what the runner knows of the source. all says that the polls' attempts and
// logs are wanted, too.
func (r *Runner) Status(all bool) Status {
	state, _, _ := r.Upstreams.State()
	s := Status{
		Name: r.Name, Driver: r.config.Driver, Breaker: state,
		Upstreams: []UpstreamStatus{}, Polls: []poll.Status{},
	}
	for _, u := range r.Upstreams.List {
		c := u.Circuit.Snapshot()
		us := UpstreamStatus{
			Name: u.Name, State: c.State, Failures: c.Streak, ChangedAt: clock.Stamp(c.ChangedAt),
			History: r.transitions.Of(u.Name),
		}
		if c.Streak > 0 {
			us.Cause = c.Cause
		}
		if !c.ProbeAt.IsZero() {
			us.NextProbeAt = clock.Stamp(c.ProbeAt)
		}
		if time.Now().Before(c.NotBefore) {
			us.WaitUntil = clock.Stamp(c.NotBefore)
		}
		s.Upstreams = append(s.Upstreams, us)
	}
	for _, p := range r.Polls {
		if st := p.Status(); st != nil {
			if all {
				p.AddHistory(st)
			}
			s.Polls = append(s.Polls, *st)
		}
	}
	return s
}
