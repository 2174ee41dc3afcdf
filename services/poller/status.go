package poller

import (
	"time"

	"github.com/pollcast/pollcast/pkg/event"
)

// Status is what a poller is doing. It holds no secrets and no parameters, and of
// values only what an expression stumbled over.
type Status struct {
	Owner     string         `json:"owner"`
	Ready     bool           `json:"ready"`
	Problem   string         `json:"problem,omitempty"` // why it is not ready
	Connected bool           `json:"connected"`         // to NATS
	Sources   []SourceStatus `json:"sources"`
	// Reload is how the last reload went; nil before the first.
	Reload *ReloadStatus `json:"reload,omitempty"`
	// Pollers are all that share the sources, by name, this one included.
	Pollers []PollerStatus `json:"pollers"`
}

// PollerStatus is one of the pollers that share the sources.
type PollerStatus struct {
	Owner   string    `json:"owner"`
	Host    string    `json:"host"`
	Since   time.Time `json:"since"`
	Sources int       `json:"sources"` // that it owns
	// OtherSet says that its configuration names other sources than this one's.
	OtherSet bool `json:"otherSources,omitempty"`
}

// SourceStatus is one source.
type SourceStatus struct {
	Name   string `json:"name"`
	Driver string `json:"driver"`
	// Owned says that this poller holds the lease; Owner is who does, as last
	// seen.
	Owned bool   `json:"owned"`
	Owner string `json:"owner,omitempty"`
	// OwnedSince and Why say since when the owner has it, and why it moved there.
	OwnedSince time.Time        `json:"ownedSince,omitzero"`
	Why        string           `json:"why,omitempty"`
	Fence      uint64           `json:"fence,omitempty"`
	Breaker    event.State      `json:"breaker"`
	Upstreams  []UpstreamStatus `json:"upstreams"`
	Polls      []PollStatus     `json:"polls"` // as of when the source was last owned
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

// PollStatus is one poll.
type PollStatus struct {
	Poll                string       `json:"poll"`
	IntervalMs          int64        `json:"intervalMs"`
	TimeoutMs           int64        `json:"timeoutMs"`
	MaxAgeMs            int64        `json:"maxAgeMs"`
	Stale               bool         `json:"stale"`
	Reason              event.Reason `json:"reason,omitempty"`
	Detail              string       `json:"detail,omitempty"`
	ConsecutiveFailures int          `json:"consecutiveFailures"`
	AsOf                time.Time    `json:"asOf,omitzero"`
	ChangedAt           time.Time    `json:"changedAt,omitzero"`
	Version             uint64       `json:"version"`
	// Unpublished says that the stream does not hold all of this yet.
	Unpublished bool      `json:"unpublished"`
	LastOutcome string    `json:"lastOutcome,omitempty"` // ok, or a reason
	LastAt      time.Time `json:"lastAt,omitzero"`
	LastTookMs  float64   `json:"lastTookMs"`
	Skipped     uint64    `json:"skipped"` // ticks without a call
	// Keys counts the keys of the last good answer, of a poll that has keys.
	Keys int `json:"keys,omitempty"`
	// Position is the last that is stored, Head the last that the upstream said,
	// of a poll that follows a sequence.
	Position *int64 `json:"position,omitempty"`
	Head     *int64 `json:"head,omitempty"`
	// Attempts are the last 50, the newest first.
	Attempts []AttemptStatus `json:"attempts"`
	// Log is the last lines of the poll's own log, at most 5: what became of its
	// value, and why.
	Log []string `json:"log"`
}

// AttemptStatus is one attempt of a poll to get a value.
type AttemptStatus struct {
	At      time.Time `json:"at"` // when it began
	TookMs  float64   `json:"tookMs"`
	Outcome string    `json:"outcome"` // ok, or a reason
	// Upstream is the one that answered, or failed last; empty if the breaker let
	// none be asked.
	Upstream string `json:"upstream,omitempty"`
	// Times is how many such attempts in a row this stands for, if more than one.
	Times uint32 `json:"times,omitempty"`
}

// Status returns what the poller is doing now.
func (p *Poller) Status() Status {
	s := p.look()
	for _, r := range p.list() {
		s.Sources = append(s.Sources, r.status(true))
	}
	return s
}

// look is the status without the sources.
func (p *Poller) look() Status {
	s := Status{Owner: p.owner, Sources: []SourceStatus{}}
	if err := p.Ready(); err != nil {
		s.Problem = err.Error()
	} else {
		s.Ready = true
	}
	if nc := p.nc.Load(); nc != nil {
		s.Connected = nc.IsConnected()
	}
	s.Reload, s.Pollers = p.reloads.last.Load(), []PollerStatus{}
	if c := p.others(); c != nil {
		all, mine := c.all()
		for _, o := range all {
			s.Pollers = append(s.Pollers, PollerStatus{o.Owner, o.Host, o.Since, o.Sources, o.Set != mine})
		}
	}
	return s
}

// look is the source's status, of its polls all or without what they remember.
func (s *supervisor) status(all bool) SourceStatus {
	out := s.runner.Load().look(all)
	out.Log = s.lines.look()
	if t := s.tenure.Load(); t != nil && t.valid() {
		out.Owned, out.Fence = true, t.fence
	}
	if l := s.lease.Load(); l != nil {
		if h := l.holder.Load(); h != nil {
			out.Owner, out.OwnedSince, out.Why = h.Owner, h.Since, h.Why
		}
	}
	return out
}

// look is what the runner knows of it.
func (r *runner) look(all bool) SourceStatus {
	breaker, _, _ := r.upstreams.breaker()
	s := SourceStatus{Name: r.name, Driver: r.config.Driver, Breaker: breaker, Upstreams: []UpstreamStatus{}, Polls: []PollStatus{}}
	for _, u := range r.upstreams.list {
		c := u.circuit.look()
		us := UpstreamStatus{Name: u.name, State: c.state, Failures: c.streak, ChangedAt: stamp(c.changedAt), History: r.turns.look(u.name)}
		if c.streak > 0 {
			us.Cause = c.cause
		}
		if !c.probeAt.IsZero() {
			us.NextProbeAt = stamp(c.probeAt)
		}
		if time.Now().Before(c.notBefore) {
			us.WaitUntil = stamp(c.notBefore)
		}
		s.Upstreams = append(s.Upstreams, us)
	}
	for _, p := range r.polls {
		if st := p.look(); st != nil {
			if all {
				st.Attempts, st.Log = p.attempts.look(r.upstreams.names()), p.lines.look()
			}
			s.Polls = append(s.Polls, *st)
		}
	}
	return s
}

// look is the poll's status now, without its attempts and its log; nil if it was
// never run.
func (p *poll) look() *PollStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.begun {
		return nil
	}
	now := clock()
	s := &PollStatus{
		Poll: p.topic, IntervalMs: p.config.Interval.Milliseconds(), TimeoutMs: p.config.Timeout.Milliseconds(), MaxAgeMs: p.config.MaxAge.Milliseconds(),
		Stale: p.stale || !p.known, Reason: p.reason, Detail: p.whole.of(p.detail), ConsecutiveFailures: p.failures,
		AsOf: told(p.good.asOf, now), ChangedAt: p.good.changedAt, Version: p.stored.version, Unpublished: p.retry.failing() || p.unstored() || len(p.keyJobs(now)) > 0,
		LastOutcome: p.last.outcome, LastAt: stamp(p.last.at), LastTookMs: float64(p.last.took.Microseconds()) / 1000,
		Skipped: p.skipped, Keys: p.live(),
	}
	if p.follow != nil {
		p.follow.tell(s)
	}
	return s
}
