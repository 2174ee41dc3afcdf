package breaker

import (
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/afex/hystrix-go/hystrix"
)

// gate is one circuit of hystrix-go. This is the only file that imports hystrix-go.
//
// hystrix-go looks at the error rate of the last 10 seconds. It cannot express "five
// failures in a row": at a poll every 12 seconds its window never holds two calls. So
// gate switches the rate rule off (base). Circuit counts the streak, and trips the gate
// when the streak is full. hystrix keeps the open state, the sleep window, the single
// test call and the closing.
//
// The price of hystrix-go:
//   - Its table of circuits is global and only grows: 30 KB and two goroutines for each
//     name, until the process ends. Type names uses them again.
//   - It opens a circuit only by its metrics, which another goroutine counts: trip waits
//     for that goroutine, as a rule for microseconds, at most for about a second.
//   - It reads the wall clock, which somebody may set: allowProbe works around that.
//   - Its Do reports a success from a goroutine, after Do has returned. Calls of several
//     polls overlap, so such a late report could close a circuit that opened after the
//     call began. So gate uses AllowRequest and ReportEvent instead of Do.
//   - Each report costs the work of three goroutines. So gate reports failures, and only
//     the success that closes the circuit; others would change nothing but statistics.
//
// The Circuit that owns a gate calls its methods under the circuit's mutex.
type gate struct {
	name    string // in hystrix's table, unique in the process
	base    hystrix.CommandConfig
	hystrix *hystrix.CircuitBreaker
}

// newGate takes a closed circuit from hystrix's table; free gives it back.
func newGate(name string, openFor time.Duration) (*gate, error) {
	g := &gate{
		name: circuitNames.take(name),
		base: hystrix.CommandConfig{
			RequestVolumeThreshold: -1, // as an unsigned number out of reach: the rate never opens the circuit
			ErrorPercentThreshold:  100,
		},
	}
	g.setOpenFor(openFor)
	var err error
	if g.hystrix, _, err = hystrix.GetCircuit(g.name); err != nil {
		g.free()
		return nil, err
	}
	g.close() // a former owner may have left it open
	return g, nil
}

// free gives the circuit's name back. The gate must not be used any more.
func (g *gate) free() { circuitNames.give(g.name) }

// setOpenFor sets hystrix's sleep window.
func (g *gate) setOpenFor(d time.Duration) {
	g.base.SleepWindow = int(d.Milliseconds())
	hystrix.ConfigureCommand(g.name, g.base)
}

func (g *gate) isOpen() bool { return g.hystrix.IsOpen() }

// allow reports whether hystrix lets a call through: always while closed.
func (g *gate) allow() bool { return g.hystrix.AllowRequest() }

// allowProbe asks an open gate for its single test call. The caller knows by the
// monotonic clock that the probe is due. hystrix reads the wall clock: it refuses when
// that clock was set back, or when the open period began in an earlier process. Then
// allowProbe asks once more, with a sleep window that ended ten years ago.
func (g *gate) allowProbe() bool {
	if g.hystrix.AllowRequest() {
		return true
	}
	awake := g.base
	awake.SleepWindow = -10 * 365 * 24 * int(time.Hour/time.Millisecond)
	hystrix.ConfigureCommand(g.name, awake)
	defer hystrix.ConfigureCommand(g.name, g.base)
	return g.hystrix.AllowRequest()
}

// trip opens the gate after a reported failure: for a moment it sets thresholds that
// every failure exceeds. It returns false when hystrix has not counted the failure after
// about a second; the next failure trips again.
func (g *gate) trip() bool {
	armed := g.base
	armed.RequestVolumeThreshold, armed.ErrorPercentThreshold = 1, -1
	hystrix.ConfigureCommand(g.name, armed)
	defer hystrix.ConfigureCommand(g.name, g.base) // hystrix stays open after that
	for range 1_000_000 {
		if g.hystrix.IsOpen() {
			return true
		}
		runtime.Gosched()
	}
	return false
}

// report gives hystrix the end of a call: "success", "failure" or "timeout". A success
// closes an open gate. It fails only when hystrix cannot keep up with its metrics.
func (g *gate) report(kind string, start time.Time) {
	_ = g.hystrix.ReportEvent([]string{kind}, start, time.Since(start))
}

// close closes the gate if it is open.
func (g *gate) close() {
	if g.hystrix.IsOpen() {
		g.report("success", time.Now())
	}
}

// names hands out names in hystrix's table and uses again what was given back, so that
// a process has as many circuits as it ever had at the same time.
type names struct {
	mu    sync.Mutex
	taken map[string]bool
	known map[string]bool // all names that hystrix has ever had
}

var circuitNames = names{taken: map[string]bool{}, known: map[string]bool{}}

// take returns base, or base with a number if another circuit has that name.
func (n *names) take(base string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	name := base
	for i := 2; n.taken[name]; i++ {
		name = base + "#" + strconv.Itoa(i)
	}
	n.taken[name], n.known[name] = true, true
	return name
}

func (n *names) give(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.taken, name)
}

// KnownNames counts the names in hystrix's table that begin with prefix. hystrix never
// forgets a name. Tests use it to find circuits that were not given back.
func KnownNames(prefix string) (n int) {
	circuitNames.mu.Lock()
	defer circuitNames.mu.Unlock()
	for name := range circuitNames.known {
		if strings.HasPrefix(name, prefix) {
			n++
		}
	}
	return n
}
