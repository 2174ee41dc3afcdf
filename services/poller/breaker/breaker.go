package breaker

import (
	"errors"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/afex/hystrix-go/hystrix"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
)

// This file is the only one that imports hystrix-go.
//
// The rule: N failures in a row open the circuit, at any interval; open, it
// lets no call through for openFor, then exactly one probe; its success closes
// the circuit at once, its failure opens it for another period; a failure
// between successes never opens it. An answer that calls the request wrong is
// a success: the upstream is there.
//
// hystrix-go cannot express "N in a row": it looks at the error rate of the
// last 10 seconds, in which a poll every 12 seconds never has two calls. So
// hystrix owns the circuit (the gate, the open state, the sleep window, the
// single test, the closing), and this file owns the streak and trips the
// circuit when it is full.
//
// It uses hystrix through AllowRequest and ReportEvent, not through Do. All
// polls of a source share the circuit of an upstream, so that calls overlap;
// Do reports a success from a goroutine of its own, after it has returned, and
// such a report from a call that began before the circuit opened would close
// it. Here every decision and its report are one step under one mutex. Told are
// failures, and the success that closes: other successes would change nothing
// but hystrix's statistics, at the price of three goroutines' work for each.

// probeMargin: hystrix tests only when strictly more than the sleep window has
// passed.
const ProbeMargin = time.Millisecond

// verdict is what a finished call says about its upstream.
type verdict int

const (
	Success   verdict = iota
	Failure           // the upstream's fault
	Abandoned         // cut short by us: says nothing
)

// permit is the leave to make one call. The circuit must be told the end of
// every permitted call.
type Permit struct {
	generation uint64
	Probe      bool
	start      time.Time
}

// Rule says when a circuit opens and for how long.
type Rule struct {
	Failures int           // in a row, that open it; 1 or more
	OpenFor  time.Duration // before one probe is let through
}

// circuit is the breaker of one upstream of one source. Its methods may be
// called from several goroutines.
type Circuit struct {
	name     string // hystrix's, unique in the process
	source   string
	upstream string
	rule     Rule
	base     hystrix.CommandConfig
	hystrix  *hystrix.CircuitBreaker
	// changed is told every transition, in order, under the circuit's mutex: it
	// must neither block nor call the circuit.
	changed func(event.Breaker)

	mu         sync.Mutex
	state      event.State
	generation uint64 // +1 at every transition: an older call's end is ignored
	streak     int
	cause      string
	changedAt  time.Time
	touched    time.Time // when the state, the streak or notBefore last changed
	changes    uint64    // how often that was, over all owners
	probeAt    time.Time // while open
	notBefore  time.Time // the upstream's Retry-After
}

// newCircuit takes a circuit out of hystrix's global table; free gives it back.
func New(source, upstream string, b Rule, changed func(event.Breaker)) (*Circuit, error) {
	c := &Circuit{
		source: source, upstream: upstream, rule: b, changed: changed, state: event.Closed,
		base: hystrix.CommandConfig{
			RequestVolumeThreshold: -1, // as unsigned, beyond reach: never opens by rate
			ErrorPercentThreshold:  100,
			SleepWindow:            int(b.OpenFor.Milliseconds()),
		},
	}
	c.name = circuitNames.take(source + " " + upstream)
	hystrix.ConfigureCommand(c.name, c.base)
	var err error
	if c.hystrix, _, err = hystrix.GetCircuit(c.name); err != nil {
		circuitNames.give(c.name)
		return nil, err
	}
	c.closeHystrix() // a former owner may have left it open
	return c, nil
}

// rebind gives the circuit to another runner, with other settings. An open one
// does not wait longer than they say.
func (c *Circuit) Rebind(b Rule, changed func(event.Breaker)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed, c.rule = changed, b
	c.base.SleepWindow = int(b.OpenFor.Milliseconds())
	hystrix.ConfigureCommand(c.name, c.base)
	if soonest := time.Now().Add(b.OpenFor + ProbeMargin); c.probeAt.After(soonest) && !c.notBefore.After(soonest) {
		c.probeAt = soonest
	}
}

func (c *Circuit) Free() { circuitNames.give(c.name) }

// errRefused: the circuit lets no call through now.
var (
	ErrOpen = errors.New("circuit is open")
	ErrWait = errors.New("upstream asked to wait")
	// errQuota is no circuit's, but its upstream's quota's.
	ErrQuota = errors.New("upstream was asked as often as maxCallsPerMinute says")
)

// begin asks for leave to make a call. The error is errOpen, also while
// another call is the probe, or errWait.
func (c *Circuit) Begin() (Permit, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := clock.Now()
	switch {
	case c.state == event.HalfOpen, c.state == event.Open && now.Before(c.probeAt):
		return Permit{}, ErrOpen
	case c.state == event.Open:
		if !c.allowProbe() {
			return Permit{}, ErrOpen
		}
		c.transition(event.HalfOpen, "probe")
		return Permit{c.generation, true, now}, nil
	case now.Before(c.notBefore):
		return Permit{}, ErrWait
	case !c.hystrix.AllowRequest():
		return Permit{}, ErrOpen
	}
	return Permit{c.generation, false, now}, nil
}

// allowProbe asks hystrix for its single test. The probe is due by our clock,
// which is monotonic. hystrix reads the wall clock and refuses when that was
// set back, or when a restored circuit's period began in an earlier process:
// then its sleep window is made as long as never was.
func (c *Circuit) allowProbe() bool {
	if c.hystrix.AllowRequest() {
		return true
	}
	awake := c.base
	awake.SleepWindow = -10 * 365 * 24 * int(time.Hour/time.Millisecond)
	hystrix.ConfigureCommand(c.name, awake)
	defer hystrix.ConfigureCommand(c.name, c.base)
	return c.hystrix.AllowRequest()
}

// end tells how a permitted call ended; cause is the failure in words. A call
// that began before the circuit last changed is of another time: it must not
// close a circuit that opened meanwhile, and no longer counts.
func (c *Circuit) End(p Permit, v verdict, timedOut bool, cause string) {
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
			c.report("success", p.start)
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
		c.report(kind, p.start)
		if !p.Probe && (c.streak < c.rule.Failures || !c.trip()) {
			return
		}
		c.open(now.Add(c.rule.OpenFor+ProbeMargin), cause)
	case Abandoned:
		if p.Probe { // nothing was learnt: the next call may be the probe
			c.open(now, "probe was cut short")
		}
	}
}

// touch notes that there is something new for the next owner.
func (c *Circuit) touch(now time.Time) {
	c.touched = now
	c.changes++
}

// wait keeps the upstream alone for as long as it asks; 0 if it does not.
func (c *Circuit) HoldOff(retryAfter time.Duration) {
	if retryAfter <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := clock.Now()
	c.notBefore = now.Add(min(retryAfter, maxRetryAfter))
	if c.state == event.Open && c.notBefore.After(c.probeAt) { // it comes of an older call
		c.probeAt = c.notBefore
	}
	c.touch(now)
}

// still says whether a permit for ordinary calls, of which no end was told yet,
// is good for another one, and how long the upstream wants to be left alone
// before it.
func (c *Circuit) MayRepeat(p Permit) (wait time.Duration, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(0, time.Until(c.notBefore)), c.state == event.Closed && c.generation == p.generation
}

// maxRetryAfter bounds how long an upstream can keep us away.
const maxRetryAfter = 10 * time.Minute

func (c *Circuit) open(probeAt time.Time, cause string) {
	c.probeAt = probeAt
	if c.notBefore.After(probeAt) {
		c.probeAt = c.notBefore
	}
	c.transition(event.Open, cause)
}

// turn changes the state and tells it.
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
	c.changed(b)
}

// trip makes hystrix open its circuit: with a threshold that anything fails,
// for as long as it takes. hystrix counts calls in a goroutine of its own, so
// that the one just reported may be seen a little later. It gives up after
// about a second; the next failure trips again.
func (c *Circuit) trip() bool {
	armed := c.base
	armed.RequestVolumeThreshold, armed.ErrorPercentThreshold = 1, -1
	hystrix.ConfigureCommand(c.name, armed)
	defer hystrix.ConfigureCommand(c.name, c.base) // open is sticky
	for range 1_000_000 {
		if c.hystrix.IsOpen() {
			return true
		}
		runtime.Gosched()
	}
	return false
}

// report feeds hystrix: its metrics, and the closing of its circuit. It fails
// only when hystrix cannot keep up with its metrics.
func (c *Circuit) report(kind string, start time.Time) {
	_ = c.hystrix.ReportEvent([]string{kind}, start, time.Since(start))
}

func (c *Circuit) closeHystrix() {
	if c.hystrix.IsOpen() {
		c.report("success", time.Now())
	}
}

// circuitState is a circuit at one moment.
type Snapshot struct {
	State     event.State
	Streak    int
	Cause     string
	ChangedAt time.Time
	ProbeAt   time.Time // zero unless open
	NotBefore time.Time
}

func (c *Circuit) Snapshot() Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Snapshot{c.state, c.streak, c.cause, c.changedAt, time.Time{}, c.notBefore}
	if c.state == event.Open {
		s.ProbeAt = c.probeAt
	}
	return s
}

// names hands out names in hystrix's table, which is global to the process and
// never forgets: every name costs 30 KB and two goroutines for ever. A name
// that was given back is used again, so that a process has as many circuits as
// it ever had at once.
type names struct {
	mu    sync.Mutex
	taken map[string]bool
	ever  map[string]bool // all that hystrix knows
}

var circuitNames = names{taken: map[string]bool{}, ever: map[string]bool{}}

func (n *names) take(base string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	name := base
	for i := 2; n.taken[name]; i++ {
		name = base + "#" + strconv.Itoa(i)
	}
	n.taken[name], n.ever[name] = true, true
	return name
}

func (n *names) give(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.taken, name)
}

// knownNames counts the names with a prefix that hystrix has ever had: it forgets none.
func KnownNames(prefix string) (n int) {
	circuitNames.mu.Lock()
	defer circuitNames.mu.Unlock()
	for name := range circuitNames.ever {
		if strings.HasPrefix(name, prefix) {
			n++
		}
	}
	return n
}

// hystrixOpen says what hystrix thinks of the circuit: it is open unless ours is closed.
func (c *Circuit) HystrixOpen() bool { return c.hystrix.IsOpen() }

// probeStagger is how long polls wait for the one whose turn it is to probe.
const ProbeStagger = 20 * time.Millisecond
