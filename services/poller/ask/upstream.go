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

// Upstream is one endpoint of a source.
type Upstream struct {
	// Name is the endpoint without path and query, which may hold secrets. It shows in
	// records, metrics and logs.
	Name     string
	Circuit  *breaker.Circuit
	Quota    *breaker.Quota
	Calls    map[CallKind]prometheus.Counter
	Withheld prometheus.Counter // counts the calls that the quota did not permit
	Call     source.Func
	Free     func()   // closes the connections
	Secrets  []string // texts that no detail may contain
	moved    bool     // a later configuration has inherited the circuit
}

// CallKind is why a call is made. It is a label of a metric.
type CallKind string

const (
	firstCall    CallKind = "first"
	failOverCall CallKind = "failover"
	retryCall    CallKind = "retry"
	hedgeCall    CallKind = "hedge"
	probeCall    CallKind = "probe"
	// PositionCall is a call for one position of a sequence.
	PositionCall CallKind = "position"
)

// CallKinds are all kinds of calls.
var CallKinds = []CallKind{firstCall, failOverCall, retryCall, hedgeCall, probeCall, PositionCall}

// detail makes a text safe to publish that did not come from the driver.
func (u *Upstream) detail(text string) string { return event.Detail(source.Redact(text, u.Secrets)) }

// Blame makes a failure that does not count against the upstream, because it did
// answer or was not asked. prefix comes before the error's text.
func (u *Upstream) Blame(reason event.Reason, prefix string, err error) *source.Failure {
	f := &source.Failure{Reason: reason, Detail: u.detail(prefix + err.Error())}
	if whole := u.detail(prefix + jq.FullText(err)); whole != f.Detail {
		f.Whole = whole
	}
	return f
}

// permit asks the quota and the circuit for one call. The error is breaker.ErrQuota or
// that of Circuit.Begin.
func (u *Upstream) permit(now time.Time) (breaker.Permit, error) {
	if !u.Quota.Take(now) {
		u.Withheld.Inc()
		return breaker.Permit{}, breaker.ErrQuota
	}
	permit, err := u.Circuit.Begin()
	if err != nil {
		u.Quota.GiveBack()
	}
	return permit, err
}

// Upstreams are those of a source, in the order of the configuration. Its methods may
// be called by several goroutines.
type Upstreams struct {
	List   []*Upstream
	Probes atomic.Int64 // number of probes that all circuits have let through
}

// Close frees the upstreams, and the circuits that no later configuration has inherited.
// No call may be under way.
func (all *Upstreams) Close() {
	for _, u := range all.List {
		u.Free()
		if !u.moved {
			u.Circuit.Free()
		}
	}
}

// Pick returns the upstream that a tick asks first, and its permit. It is one whose
// probe is due. If there is none and probeOnly is false, it is the first one whose
// circuit is closed. Without one the error is breaker.ErrOpen, ErrWait or ErrQuota.
func (all *Upstreams) Pick(probeOnly bool) (*Upstream, breaker.Permit, error) {
	none := func(*Upstream) bool { return false }
	up, permit, err := all.pickProbe(none)
	if err != nil && !probeOnly {
		up, permit, err = all.pickClosed(none)
	}
	return up, permit, err
}

// pickNext returns an upstream that a tick has not asked, and its permit: the first one
// whose circuit is closed. If there is none and mustBeClosed is false, it is one whose
// probe is due.
func (all *Upstreams) pickNext(asked func(*Upstream) bool, mustBeClosed bool) (*Upstream, breaker.Permit, error) {
	up, permit, err := all.pickClosed(asked)
	if err != nil && !mustBeClosed {
		up, permit, err = all.pickProbe(asked)
	}
	return up, permit, err
}

// pickProbe returns the first upstream whose probe is due.
func (all *Upstreams) pickProbe(asked func(*Upstream) bool) (*Upstream, breaker.Permit, error) {
	now := time.Now()
	for _, u := range all.List {
		if c := u.Circuit.Snapshot(); !asked(u) && c.State == event.Open && !now.Before(c.ProbeAt) {
			if permit, err := u.permit(now); err == nil {
				return u, permit, nil
			}
		}
	}
	return nil, breaker.Permit{}, breaker.ErrOpen
}

// pickClosed returns the first upstream whose circuit is closed and permits a call.
func (all *Upstreams) pickClosed(asked func(*Upstream) bool) (*Upstream, breaker.Permit, error) {
	refused := breaker.ErrOpen
	for _, u := range all.List {
		if asked(u) || u.Circuit.Snapshot().State != event.Closed {
			continue
		}
		permit, err := u.permit(time.Now())
		if err == nil {
			return u, permit, nil
		}
		if !errors.Is(err, breaker.ErrOpen) {
			refused = err
		}
	}
	return nil, breaker.Permit{}, refused
}

// unasked counts the upstreams that were not asked and that a tick may ask.
func (all *Upstreams) unasked(asked func(*Upstream) bool) (n int) {
	now := time.Now()
	for _, u := range all.List {
		if c := u.Circuit.Snapshot(); !asked(u) && c.State == event.Closed && !now.Before(c.NotBefore) {
			n++
		}
	}
	return n
}

// NextProbe returns when the next probe of an open circuit is due, or zero when no
// circuit is open.
func (all *Upstreams) NextProbe() (at time.Time) {
	for _, u := range all.List {
		if c := u.Circuit.Snapshot(); c.State == event.Open && (at.IsZero() || c.ProbeAt.Before(at)) {
			at = c.ProbeAt
		}
	}
	return at
}

// State returns the state of the source's breaker: closed while any circuit is closed,
// half open while a probe is under way, otherwise open. Unless it is closed, it also
// returns when the next probe is due and the cause of the last failure.
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

// ProbeDelay returns for how long a poll waits when a probe is due. One poll of the
// source waits 0, and another one with every probe. So a poll that fails by its own
// fault cannot keep a circuit open for ever. index is the poll's, from 0.
func (all *Upstreams) ProbeDelay(index, polls int) time.Duration {
	if int(all.Probes.Load())%polls == index {
		return 0
	}
	return breaker.ProbeStagger
}

// Names returns the names of the upstreams in their order.
func (all *Upstreams) Names() []string {
	names := make([]string, 0, len(all.List))
	for _, u := range all.List {
		names = append(names, u.Name)
	}
	return names
}
