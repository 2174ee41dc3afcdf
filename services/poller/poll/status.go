package poll

import (
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/history"
)

// Status is one poll. It holds no secrets, and of values only what an expression stumbled over.
type Status struct {
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
	Attempts []history.Attempt `json:"attempts"`
	// Log is the last lines of the poll's own log, at most 5: what became of its
	// value, and why.
	Log []string `json:"log"`
}

// Status is the poll's status now, without its attempts and its log; nil if it never
// ran.
func (p *Poll) Status() *Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.state.ran {
		return nil
	}
	now, t := clock.Now(), &p.state.trust
	s := &Status{
		Poll: p.Topic, IntervalMs: p.Config.Interval.Milliseconds(),
		TimeoutMs: p.Config.Timeout.Milliseconds(), MaxAgeMs: p.Config.MaxAge.Milliseconds(),
		Stale: t.stale || !t.known, Reason: t.reason, Detail: t.full.For(t.detail), ConsecutiveFailures: t.failures,
		AsOf:        clock.WallTime(t.asOf, now),
		Unpublished: p.state.outbox.retry.Failing() || len(p.state.topics.changes(now)) > 0,
		LastOutcome: p.state.last.outcome, LastAt: clock.Stamp(p.state.last.at),
		LastTookMs: float64(p.state.last.took.Microseconds()) / 1000, Skipped: p.state.ticks.skipped,
	}
	p.state.kind.addTo(s)
	return s
}

// AddHistory completes a status with the last attempts and the log.
func (p *Poll) AddHistory(s *Status) {
	s.Attempts, s.Log = p.state.attempts.List(p.Upstreams.Names()), p.lines.List()
}

// Restored counts the values that are known.
func (p *Poll) Restored() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state.kind.restored()
}

// Topics counts the topics that are remembered, also those whose keys are gone.
func (p *Poll) Topics() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.state.topics.byToken)
}
