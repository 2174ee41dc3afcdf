package breaker

import (
	"errors"
	"sync"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
)

// ProbeMargin is added to the time that a circuit stays open: hystrix lets its test
// call through only when strictly more than its sleep window has passed.
const ProbeMargin = time.Millisecond

// ProbeStagger is how long the other polls of a source wait for the poll that makes
// the probe.
const ProbeStagger = 20 * time.Millisecond

// maxRetryAfter bounds for how long an upstream's Retry-After holds calls off.
const maxRetryAfter = 10 * time.Minute

// Verdict is what a finished call says about its upstream.
type Verdict int

// An answer that refuses the request as wrong is a Success: the upstream works.
const (
	Success   Verdict = iota
	Failure           // the upstream failed
	Abandoned         // the poller ended the call: nothing is known of the upstream
)

// Permit allows one call. The caller of Begin must pass every Permit to End.
type Permit struct {
	Probe      bool // the call decides whether an open circuit closes
	generation uint64
	start      time.Time
}

// Rule says when a circuit opens and for how long.
type Rule struct {
	Failures int           // in a row, that open the circuit; 1 or more
	OpenFor  time.Duration // before the circuit lets one probe through
}

// Circuit is the breaker of one upstream of one source. Its methods may be called from
// several goroutines.
//
// Rule.Failures failures in a row open the circuit, however far apart they are; a
// failure between successes never does. An open circuit lets no call through for
// Rule.OpenFor, then exactly one probe. A successful probe closes the circuit at once;
// a failed one keeps it open for another OpenFor. File hystrix.go says what hystrix-go
// does of this, and at what price.
type Circuit struct {
	source, upstream string

	mu           sync.Mutex
	rule         Rule
	onTransition func(event.Breaker) // see New
	gate         *gate
	state        event.State
	generation   uint64    // +1 at every transition; End ignores permits of an earlier one
	streak       int       // failures in a row
	cause        string    // the last failure
	changedAt    time.Time // the last transition
	touched      time.Time // when state, streak or notBefore last changed; zero: never
	changes      uint64    // how often they changed, in all pollers that held the lease
	probeAt      time.Time // when the probe is due, while open
	notBefore    time.Time // when the upstream's Retry-After ends
}

// New returns a closed circuit. The owner must give it back with Free. The circuit calls
// onTransition for each transition, in order, under its mutex: onTransition must not
// block and must not call the circuit.
func New(source, upstream string, rule Rule, onTransition func(event.Breaker)) (*Circuit, error) {
	g, err := newGate(source+" "+upstream, rule.OpenFor)
	if err != nil {
		return nil, err
	}
	return &Circuit{
		source: source, upstream: upstream, rule: rule, onTransition: onTransition, gate: g, state: event.Closed,
	}, nil
}

// Rebind gives the circuit to another runner, with its rule and callback. A circuit that
// is open waits no longer than the new rule says, but as long as Retry-After says.
func (c *Circuit) Rebind(rule Rule, onTransition func(event.Breaker)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onTransition, c.rule = onTransition, rule
	c.gate.setOpenFor(rule.OpenFor)
	soonest := time.Now().Add(rule.OpenFor + ProbeMargin)
	if c.probeAt.After(soonest) && !c.notBefore.After(soonest) {
		c.probeAt = soonest
	}
}

// Free gives the circuit back. It must not be used any more.
func (c *Circuit) Free() { c.gate.free() }

// Why an upstream must not be called now.
var (
	ErrOpen = errors.New("circuit is open")
	ErrWait = errors.New("upstream asked to wait")
	// ErrQuota is for callers of Quota.Take. Begin does not return it.
	ErrQuota = errors.New("upstream was asked as often as maxCallsPerMinute says")
)

// Begin asks for a permit to make a call. The error is ErrOpen, also while another call
// is the probe, or ErrWait.
func (c *Circuit) Begin() (Permit, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := clock.Now()
	switch {
	case c.state == event.HalfOpen, c.state == event.Open && now.Before(c.probeAt):
		return Permit{}, ErrOpen
	case c.state == event.Open:
		if !c.gate.allowProbe() {
			return Permit{}, ErrOpen
		}
		c.transition(event.HalfOpen, "probe")
		return Permit{true, c.generation, now}, nil
	case now.Before(c.notBefore):
		return Permit{}, ErrWait
	case !c.gate.allow():
		return Permit{}, ErrOpen
	}
	return Permit{false, c.generation, now}, nil
}

// End reports how a permitted call ended; timedOut and cause describe a failure. The end
// of a call that began before the last transition counts for nothing: it must not close
// a circuit that opened meanwhile.
func (c *Circuit) End(p Permit, v Verdict, timedOut bool, cause string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := clock.Now()
	if p.generation != c.generation {
		return
	}
	switch v {
	case Success:
		if c.streak > 0 {
			c.streak = 0
			c.touch(now)
		}
		if p.Probe {
			c.gate.report("success", p.start)
			c.transition(event.Closed, "recovered")
		}
	case Failure:
		c.streak++
		c.cause = cause
		c.touch(now)
		kind := "failure"
		if timedOut {
			kind = "timeout"
		}
		c.gate.report(kind, p.start)
		if !p.Probe && (c.streak < c.rule.Failures || !c.gate.trip()) {
			return
		}
		c.open(now.Add(c.rule.OpenFor+ProbeMargin), cause)
	case Abandoned:
		if p.Probe { // it says nothing: the next call is the probe
			c.open(now, "probe was cut short")
		}
	}
}

// touch notes a change that the next holder of the lease must get.
func (c *Circuit) touch(now time.Time) {
	c.touched = now
	c.changes++
}

// HoldOff lets no call through for retryAfter, at most for maxRetryAfter; 0 or less does
// nothing.
func (c *Circuit) HoldOff(retryAfter time.Duration) {
	if retryAfter <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := clock.Now()
	c.notBefore = now.Add(min(retryAfter, maxRetryAfter))
	if c.state == event.Open && c.notBefore.After(c.probeAt) { // an older call brought it
		c.probeAt = c.notBefore
	}
	c.touch(now)
}

// MayRepeat reports whether p, a permit without an End so far, allows one more call, and
// how long the caller must wait before that call because of Retry-After.
func (c *Circuit) MayRepeat(p Permit) (wait time.Duration, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(0, time.Until(c.notBefore)), c.state == event.Closed && c.generation == p.generation
}

// open opens the circuit until probeAt, or until Retry-After ends if that is later.
func (c *Circuit) open(probeAt time.Time, cause string) {
	c.probeAt = probeAt
	if c.notBefore.After(probeAt) {
		c.probeAt = c.notBefore
	}
	c.transition(event.Open, cause)
}

// transition changes the state and reports it.
func (c *Circuit) transition(to event.State, cause string) {
	from := c.state
	c.state = to
	c.generation++
	c.changedAt = clock.Now()
	c.touch(c.changedAt)
	b := event.Breaker{
		Source: c.source, Upstream: c.upstream, From: from, To: to,
		Cause: event.Detail(cause), Failures: c.streak, At: clock.Stamp(c.changedAt),
	}
	if to == event.Open {
		b.NextProbeAt = clock.Stamp(c.probeAt)
	}
	c.onTransition(b)
}

// Snapshot is a circuit at one moment.
type Snapshot struct {
	State     event.State
	Streak    int       // failures in a row
	Cause     string    // the last failure; empty: none
	ChangedAt time.Time // the last transition; zero: none
	ProbeAt   time.Time // when the probe is due; zero unless open
	NotBefore time.Time // when the upstream's Retry-After ends; zero: none
}

// Snapshot returns the circuit as it is now.
func (c *Circuit) Snapshot() Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Snapshot{c.state, c.streak, c.cause, c.changedAt, time.Time{}, c.notBefore}
	if c.state == event.Open {
		s.ProbeAt = c.probeAt
	}
	return s
}

// HystrixOpen reports whether hystrix's circuit is open. It must be, unless the state is
// event.Closed; tests of the runner compare them.
func (c *Circuit) HystrixOpen() bool { return c.gate.isOpen() }
