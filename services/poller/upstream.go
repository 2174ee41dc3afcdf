package poller

import (
	"errors"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/prometheus/client_golang/prometheus"
)

// upstream is one endpoint.
type upstream struct {
	// name is the endpoint without path and query, which may hold keys. It
	// shows in records, metrics and logs.
	name    string
	circuit *circuit
	quota   *quota
	calls   map[callKind]prometheus.Counter
	// withheld counts the calls that the quota did not let through.
	withheld prometheus.Counter
	call     source.Func
	free     func()
	secrets  []string
	moved    bool // the circuit belongs to a successor
}

// detail makes words presentable that the driver has not seen.
func (u *upstream) detail(text string) string { return event.Detail(source.Redact(text, u.secrets)) }

// blame is a failure that does not count against the upstream, which did answer
// or was not asked.
func (u *upstream) blame(reason event.Reason, of string, err error) *source.Failure {
	f := &source.Failure{Reason: reason, Detail: u.detail(of + err.Error())}
	if whole := u.detail(of + wholeText(err)); whole != f.Detail {
		f.Whole = whole
	}
	return f
}

// displayName is scheme and host of a URL, made unique among a source's
// upstreams.
func displayName(address string, seen map[string]int) string {
	name := "upstream"
	if u, err := url.Parse(address); err == nil {
		name = u.Scheme + "://" + u.Host
	}
	if seen[name]++; seen[name] > 1 {
		return name + "#" + strconv.Itoa(seen[name])
	}
	return name
}

// upstreams are those of a source, in the order of the configuration.
type upstreams struct {
	list   []*upstream
	probes atomic.Int64 // that all circuits have let through
}

// pick returns the upstream that a tick asks first and the leave to do so: one
// whose probe is due, otherwise, unless only a probe is wanted, the first whose
// circuit is closed. The error is errOpen, errWait or errQuota.
func (all *upstreams) pick(probeOnly bool) (*upstream, permit, error) {
	nobody := func(*upstream) bool { return false }
	up, leave, err := all.pickProbe(nobody)
	if err != nil && !probeOnly {
		up, leave, err = all.pickClosed(nobody)
	}
	return up, leave, err
}

// pickNext returns the upstream to ask beside or after those that were: the
// first whose circuit is closed or, unless it must be, whose probe is due.
func (all *upstreams) pickNext(asked func(*upstream) bool, mustBeClosed bool) (*upstream, permit, error) {
	up, leave, err := all.pickClosed(asked)
	if err != nil && !mustBeClosed {
		up, leave, err = all.pickProbe(asked)
	}
	return up, leave, err
}

func (all *upstreams) pickProbe(asked func(*upstream) bool) (*upstream, permit, error) {
	now := time.Now()
	for _, u := range all.list {
		if c := u.circuit.look(); !asked(u) && c.state == event.Open && !now.Before(c.probeAt) {
			if leave, err := u.begin(now); err == nil {
				return u, leave, nil
			}
		}
	}
	return nil, permit{}, errOpen
}

func (all *upstreams) pickClosed(asked func(*upstream) bool) (*upstream, permit, error) {
	refused := errOpen
	for _, u := range all.list {
		if asked(u) || u.circuit.look().state != event.Closed {
			continue
		}
		leave, err := u.begin(time.Now())
		if err == nil {
			return u, leave, nil
		}
		if !errors.Is(err, errOpen) {
			refused = err
		}
	}
	return nil, permit{}, refused
}

// begin asks for leave to make a call: of the circuit, and of the quota.
func (u *upstream) begin(now time.Time) (permit, error) {
	if !u.quota.take(now) {
		u.withheld.Inc()
		return permit{}, errQuota
	}
	leave, err := u.circuit.begin()
	if err != nil {
		u.quota.giveBack()
	}
	return leave, err
}

// unasked counts the upstreams that were not asked and may be.
func (all *upstreams) unasked(asked func(*upstream) bool) (n int) {
	now := time.Now()
	for _, u := range all.list {
		if c := u.circuit.look(); !asked(u) && c.state == event.Closed && !now.Before(c.notBefore) {
			n++
		}
	}
	return n
}

// nextProbe is when the first of the open circuits wants its probe; zero when
// none is open.
func (all *upstreams) nextProbe() (at time.Time) {
	for _, u := range all.list {
		if c := u.circuit.look(); c.state == event.Open && (at.IsZero() || c.probeAt.Before(at)) {
			at = c.probeAt
		}
	}
	return at
}

// breaker is the source's: closed while any circuit is, half open while a
// probe is out, otherwise open, with the next probe and the last cause.
func (all *upstreams) breaker() (state event.State, probeAt time.Time, cause string) {
	state = event.Open
	for _, u := range all.list {
		c := u.circuit.look()
		switch c.state {
		case event.Closed:
			return event.Closed, time.Time{}, ""
		case event.HalfOpen:
			state = event.HalfOpen
		case event.Open:
			if probeAt.IsZero() || c.probeAt.Before(probeAt) {
				probeAt = c.probeAt
			}
		}
		cause = c.cause
	}
	return state, probeAt, cause
}

// probeTurn delays all polls but one when a probe is due. The one changes from
// probe to probe, so that a poll that fails for itself cannot keep the circuit
// open for ever.
func (all *upstreams) probeTurn(index, polls int) time.Duration {
	if int(all.probes.Load())%polls == index {
		return 0
	}
	return probeStagger
}

// names are those of the upstreams, in their order.
func (all *upstreams) names() []string {
	names := make([]string, 0, len(all.list))
	for _, u := range all.list {
		names = append(names, u.name)
	}
	return names
}
