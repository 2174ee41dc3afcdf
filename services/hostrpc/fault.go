package hostrpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// FaultKind is what a fault does to a method.
type FaultKind string

// The kinds of fault. In a batch, slow and hang delay the whole batch, garbage
// and http500 replace the whole answer, error only its own entry.
const (
	FaultNone    FaultKind = "none"    // removes the method's fault
	FaultSlow    FaultKind = "slow"    // the right answer, late
	FaultError   FaultKind = "error"   // JSON-RPC error -32000
	FaultHang    FaultKind = "hang"    // no answer until the client closes, five minutes at most
	FaultGarbage FaultKind = "garbage" // HTTP 200, alternately with half a JSON document and with HTML
	FaultHTTP500 FaultKind = "http500" // HTTP 500
)

// FaultAll is the fault of every method that can have one. A method's own fault
// has precedence.
const FaultAll = "*"

const (
	defaultDelay = 2 * time.Second
	maxDelay     = 5 * time.Minute
	hangFor      = 5 * time.Minute
)

var faultKinds = []FaultKind{FaultSlow, FaultError, FaultHang, FaultGarbage, FaultHTTP500, FaultNone}

// The errors of [Faults.Set]. The wrapped text has the details.
var (
	ErrFaultsNotAllowed = errors.New("faults are not allowed: set allowFaults in the configuration")
	ErrBadFault         = errors.New("bad fault")
)

// Fault is one method's fault.
type Fault struct {
	// Method is the name of a method, not one of fault.*, or [FaultAll].
	Method string    `json:"method"`
	Kind   FaultKind `json:"kind"`
	// DelayMs is for slow only: 1 to 300000 milliseconds; 0 means 2000.
	DelayMs int `json:"delayMs"`
}

// Faults holds a server's faults, at most one per method. It may be used from
// several goroutines, also before Run.
type Faults struct {
	allowed bool
	log     *slog.Logger
	metrics *metrics
	methods []string // the methods that may have a fault; fixed after New

	mu     sync.RWMutex
	active map[string]Fault // bounded by methods and "*"
}

func newFaults(allowed bool, log *slog.Logger, m *metrics) *Faults {
	return &Faults{allowed: allowed, log: log, metrics: m, active: make(map[string]Fault)}
}

// Allowed reports whether Set can succeed.
func (f *Faults) Allowed() bool { return f.allowed }

// Methods lists the values of Fault.Method, "*" first.
func (f *Faults) Methods() []string { return append([]string{FaultAll}, f.methods...) }

// Kinds lists the values of Fault.Kind.
func (f *Faults) Kinds() []FaultKind { return slices.Clone(faultKinds) }

// Set sets a method's fault in place of the one it had; the kind "none" removes
// it. It fails with [ErrFaultsNotAllowed] or [ErrBadFault].
func (f *Faults) Set(fault Fault) error {
	if !f.allowed {
		return ErrFaultsNotAllowed
	}
	if known := f.Methods(); !slices.Contains(known, fault.Method) {
		return fmt.Errorf("%w: method %q is not one of %s", ErrBadFault, clip(fault.Method), strings.Join(known, ", "))
	}
	if !slices.Contains(faultKinds, fault.Kind) {
		return fmt.Errorf("%w: kind %q is not one of %s", ErrBadFault, clip(string(fault.Kind)),
			strings.Join(kindNames(), ", "))
	}
	if most := int(maxDelay / time.Millisecond); fault.DelayMs < 0 || fault.DelayMs > most {
		return fmt.Errorf("%w: delayMs %d is outside 0 to %d", ErrBadFault, fault.DelayMs, most)
	}
	switch {
	case fault.Kind != FaultSlow:
		fault.DelayMs = 0
	case fault.DelayMs == 0:
		fault.DelayMs = int(defaultDelay / time.Millisecond)
	}
	f.mu.Lock()
	if fault.Kind == FaultNone {
		delete(f.active, fault.Method)
	} else {
		f.active[fault.Method] = fault
	}
	f.metrics.faults.Set(float64(len(f.active)))
	f.mu.Unlock()
	f.log.Warn("fault set", "method", fault.Method, "kind", string(fault.Kind), "delay_ms", fault.DelayMs)
	return nil
}

// Clear removes every fault and returns how many there were.
func (f *Faults) Clear() int {
	f.mu.Lock()
	n := len(f.active)
	clear(f.active)
	f.metrics.faults.Set(0)
	f.mu.Unlock()
	if n > 0 {
		f.log.Warn("faults cleared", "count", n)
	}
	return n
}

// List returns the faults that are set, sorted by method; never nil.
func (f *Faults) List() []Fault {
	f.mu.RLock()
	defer f.mu.RUnlock()
	all := make([]Fault, 0, len(f.active))
	for _, fault := range f.active {
		all = append(all, fault)
	}
	slices.SortFunc(all, func(a, b Fault) int { return strings.Compare(a.Method, b.Method) })
	return all
}

// faultPlan is the effect of the faults on one body. It is decided once, before
// the first call runs: a fault.clear in a batch does not change that batch.
type faultPlan struct {
	delay time.Duration
	hang  bool
	spoil FaultKind   // FaultGarbage or FaultHTTP500 when the whole answer is bad
	calls []FaultKind // in the order of the requests
}

func (f *Faults) plan(requests []request) faultPlan {
	p := faultPlan{calls: make([]FaultKind, len(requests))}
	if !f.allowed {
		return p
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	for i, r := range requests {
		// fault.* and unknown names have no faults, not even with "*".
		if r.err != nil || !slices.Contains(f.methods, r.method) {
			continue
		}
		fault, ok := f.active[r.method]
		if !ok {
			if fault, ok = f.active[FaultAll]; !ok {
				continue
			}
		}
		p.calls[i] = fault.Kind
		switch fault.Kind {
		case FaultSlow:
			p.delay = max(p.delay, time.Duration(fault.DelayMs)*time.Millisecond)
		case FaultHang:
			p.hang = true
		case FaultHTTP500:
			p.spoil = FaultHTTP500
		case FaultGarbage:
			if p.spoil == "" {
				p.spoil = FaultGarbage
			}
		}
	}
	return p
}

// faultState is the answer of fault.list and of GET on FaultsHandler.
type faultState struct {
	Allowed bool        `json:"allowed"`
	Methods []string    `json:"methods"`
	Kinds   []FaultKind `json:"kinds"`
	Active  []Fault     `json:"active"`
}

func (f *Faults) state() faultState {
	return faultState{Allowed: f.allowed, Methods: f.Methods(), Kinds: f.Kinds(), Active: f.List()}
}

func kindNames() []string {
	names := make([]string, len(faultKinds))
	for i, k := range faultKinds {
		names[i] = string(k)
	}
	return names
}

// addFaultMethods adds fault.*, which no fault affects.
func (s *Server) addFaultMethods(add func(string, string, func(context.Context, args) (any, error), ...param)) {
	add("fault.set", "Gives a method a fault, or takes it away with the kind none.",
		func(_ context.Context, a args) (any, error) {
			fault := Fault{Method: a["method"].(string), Kind: FaultKind(a["kind"].(string))}
			fault.DelayMs, _ = a["delayMs"].(int)
			if err := s.faults.Set(fault); err != nil {
				return nil, failf(codeInvalidParams, "%s", err)
			}
			return s.faults.state(), nil
		},
		param{Name: "method", Type: typeString, Description: "The method, or * for all.", Required: true,
			Enum: s.faults.Methods()},
		param{Name: "kind", Type: typeString, Description: "What goes wrong.", Required: true, Enum: kindNames()},
		param{Name: "delayMs", Type: typeInteger, Description: "How late slow is, in milliseconds.",
			Default: int(defaultDelay / time.Millisecond), Min: new(1), Max: new(int(maxDelay / time.Millisecond))})
	add("fault.list", "Faults that are set, and what can be set.",
		func(context.Context, args) (any, error) { return s.faults.state(), nil })
	add("fault.clear", "Takes every fault away.",
		func(context.Context, args) (any, error) {
			return map[string]int{"cleared": s.faults.Clear()}, nil
		})
}

// garbage returns a body that no client can use: alternately half an answer and
// the HTML of a proxy.
func garbage(turn uint64) (contentType string, body []byte) {
	if turn%2 == 1 {
		return "text/html; charset=utf-8",
			[]byte("<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>\n")
	}
	return "application/json", []byte(`{"jsonrpc":"2.0","result":{"hostname":"half an ans`)
}
