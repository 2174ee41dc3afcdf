package poller

import (
	"time"

	"github.com/pollcast/pollcast/services/poller/runner"
)

// Status is what a poller does at a moment. It has no secrets, no parameters, and of
// values only what an expression failed on.
type Status struct {
	Owner     string          `json:"owner"` // name of this poller
	Ready     bool            `json:"ready"`
	Problem   string          `json:"problem,omitempty"` // why it is not ready
	Connected bool            `json:"connected"`         // to NATS
	Sources   []runner.Status `json:"sources"`
	// Reload is the result of the last reload; nil before the first.
	Reload *ReloadStatus `json:"reload,omitempty"`
	// Pollers are all pollers that share the sources, by name, this one included.
	Pollers []PollerStatus `json:"pollers"`
}

// PollerStatus is one of the pollers that share the sources.
type PollerStatus struct {
	Owner   string    `json:"owner"`
	Host    string    `json:"host"`
	Since   time.Time `json:"since"`   // when it started
	Sources int       `json:"sources"` // number of sources whose lease it holds
	// OtherSet means that its configuration has other sources than this poller's.
	OtherSet bool `json:"otherSources,omitempty"`
}

// status is the status of the source. With detail it has the attempts and log lines
// that the polls remember.
func (s *supervisor) status(detail bool) runner.Status {
	out := s.runner.Load().Status(detail)
	out.Log = s.lines.List()
	if t := s.tenure.Load(); t != nil && t.Valid() {
		out.Owned, out.Fence = true, t.Fence
	}
	if l := s.lease.Load(); l != nil {
		if h, ok := l.Holder(); ok {
			out.Owner, out.OwnedSince, out.Why = h.Owner, h.Since, h.Why
		}
	}
	return out
}
