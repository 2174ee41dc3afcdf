package poller

import (
	"time"

	"github.com/pollcast/pollcast/services/poller/runner"
)

// Status is what a poller is doing. It holds no secrets and no parameters, and of
// values only what an expression stumbled over.
type Status struct {
	Owner     string          `json:"owner"`
	Ready     bool            `json:"ready"`
	Problem   string          `json:"problem,omitempty"` // why it is not ready
	Connected bool            `json:"connected"`         // to NATS
	Sources   []runner.Status `json:"sources"`
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
	s := Status{Owner: p.owner, Sources: []runner.Status{}}
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
		all, mine := c.Members()
		for _, o := range all {
			s.Pollers = append(s.Pollers, PollerStatus{o.Owner, o.Host, o.Since, o.Sources, o.Set != mine})
		}
	}
	return s
}

// look is the source's status, of its polls all or without what they remember.
func (s *supervisor) status(all bool) runner.Status {
	out := s.runner.Load().Status(all)
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
