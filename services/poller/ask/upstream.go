package ask

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/breaker"
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/prometheus/client_golang/prometheus"
)

// upstream is one endpoint.
type Upstream struct {
	// name is the endpoint without path and query, which may hold keys. It
	// shows in records, metrics and logs.
	Name    string
	Circuit *breaker.Circuit
	Quota   *breaker.Quota
	Calls   map[CallKind]prometheus.Counter
	// withheld counts the calls that the quota did not let through.
	Withheld prometheus.Counter
	Call     source.Func
	Free     func()
	Secrets  []string
	Moved    bool // the circuit belongs to a successor
}

// detail makes words presentable that the driver has not seen.
func (u *Upstream) detail(text string) string { return event.Detail(source.Redact(text, u.Secrets)) }

// blame is a failure that does not count against the upstream, which did answer
// or was not asked.
func (u *Upstream) Blame(reason event.Reason, of string, err error) *source.Failure {
	f := &source.Failure{Reason: reason, Detail: u.detail(of + err.Error())}
	if whole := u.detail(of + jq.FullText(err)); whole != f.Detail {
		f.Whole = whole
	}
	return f
}

// upstreams are those of a source, in the order of the configuration.
type Upstreams struct {
	List   []*Upstream
	Probes atomic.Int64 // that all circuits have let through
}

// pick returns the upstream that a tick asks first and the leave to do so: one
// whose probe is due, otherwise, unless only a probe is wanted, the first whose
// circuit is closed. The error is errOpen, errWait or errQuota.
func (all *Upstreams) Pick(probeOnly bool) (*Upstream, breaker.Permit, error) {
	nobody := func(*Upstream) bool { return false }
	up, leave, err := all.pickProbe(nobody)
	if err != nil && !probeOnly {
		up, leave, err = all.pickClosed(nobody)
	}
	return up, leave, err
}

// pickNext returns the upstream to ask beside or after those that were: the
// first whose circuit is closed or, unless it must be, whose probe is due.
func (all *Upstreams) pickNext(asked func(*Upstream) bool, mustBeClosed bool) (*Upstream, breaker.Permit, error) {
	up, leave, err := all.pickClosed(asked)
	if err != nil && !mustBeClosed {
		up, leave, err = all.pickProbe(asked)
	}
	return up, leave, err
}

func (all *Upstreams) pickProbe(asked func(*Upstream) bool) (*Upstream, breaker.Permit, error) {
	now := time.Now()
	for _, u := range all.List {
		if c := u.Circuit.Snapshot(); !asked(u) && c.State == event.Open && !now.Before(c.ProbeAt) {
			if leave, err := u.begin(now); err == nil {
				return u, leave, nil
			}
		}
	}
	return nil, breaker.Permit{}, breaker.ErrOpen
}

func (all *Upstreams) pickClosed(asked func(*Upstream) bool) (*Upstream, breaker.Permit, error) {
	refused := breaker.ErrOpen
	for _, u := range all.List {
		if asked(u) || u.Circuit.Snapshot().State != event.Closed {
			continue
		}
		leave, err := u.begin(time.Now())
		if err == nil {
			return u, leave, nil
		}
		if !errors.Is(err, breaker.ErrOpen) {
			refused = err
		}
	}
	return nil, breaker.Permit{}, refused
}

// begin asks for leave to make a call: of the circuit, and of the quota.
func (u *Upstream) begin(now time.Time) (breaker.Permit, error) {
	if !u.Quota.Take(now) {
		u.Withheld.Inc()
		return breaker.Permit{}, breaker.ErrQuota
	}
	leave, err := u.Circuit.Begin()
	if err != nil {
		u.Quota.GiveBack()
	}
	return leave, err
}

// unasked counts the upstreams that were not asked and may be.
func (all *Upstreams) unasked(asked func(*Upstream) bool) (n int) {
	now := time.Now()
	for _, u := range all.List {
		if c := u.Circuit.Snapshot(); !asked(u) && c.State == event.Closed && !now.Before(c.NotBefore) {
			n++
		}
	}
	return n
}

// nextProbe is when the first of the open circuits wants its probe; zero when
// none is open.
func (all *Upstreams) NextProbe() (at time.Time) {
	for _, u := range all.List {
		if c := u.Circuit.Snapshot(); c.State == event.Open && (at.IsZero() || c.ProbeAt.Before(at)) {
			at = c.ProbeAt
		}
	}
	return at
}

// breaker is the source's: closed while any circuit is, half open while a
// probe is out, otherwise open, with the next probe and the last cause.
func (all *Upstreams) State() (state event.State, probeAt time.Time, cause string) {
	state = event.Open
	for _, u := range all.List {
		c := u.Circuit.Snapshot()
		switch c.State {
		case event.Closed:
			return event.Closed, time.Time{}, ""
		case event.HalfOpen:
			state = event.HalfOpen
		case event.Open:
			if probeAt.IsZero() || c.ProbeAt.Before(probeAt) {
				probeAt = c.ProbeAt
			}
		}
		cause = c.Cause
	}
	return state, probeAt, cause
}

// probeTurn delays all polls but one when a probe is due. The one changes from
// probe to probe, so that a poll that fails for itself cannot keep the circuit
// open for ever.
func (all *Upstreams) ProbeDelay(index, polls int) time.Duration {
	if int(all.Probes.Load())%polls == index {
		return 0
	}
	return breaker.ProbeStagger
}

// names are those of the upstreams, in their order.
func (all *Upstreams) Names() []string {
	names := make([]string, 0, len(all.List))
	for _, u := range all.List {
		names = append(names, u.Name)
	}
	return names
}

// callKind is why a call is made, for the metrics.
type CallKind string
