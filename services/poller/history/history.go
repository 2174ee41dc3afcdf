package history

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
)

// How much is kept.
const (
	keptAttempts    = 50  // attempts of a poll
	keptTransitions = 20  // transitions of a circuit
	PollLines       = 5   // log lines of a poll
	SourceLines     = 20  // log lines of a source
	lineBytes       = 600 // bytes of one log line
)

// Attempts is the ring of a poll's last attempts. A tick that the breaker did not let
// through is one, too. Several of those in a row share one entry, so that they do not push
// out the failures that opened the breaker. Its methods may be called from several
// goroutines.
type Attempts struct {
	mu   sync.Mutex
	list [keptAttempts]attempt
	n    uint32 // added so far
}

// attempt is one entry, 24 bytes.
type attempt struct {
	at       int64  // nanoseconds since the Unix epoch, when it began
	took     uint32 // microseconds
	times    uint32 // attempts in this entry
	outcome  uint8  // place in outcomes
	upstream int8   // place in the source's upstreams; -1: none was asked
}

// Add adds an attempt that began at began and took so long. upstream is its place in the
// source's upstreams; -1: none was asked.
func (a *Attempts) Add(outcome string, began time.Time, took time.Duration, upstream int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := attempt{
		at: began.UnixNano(), took: uint32(min(took.Microseconds(), 1<<32-1)), times: 1,
		outcome: uint8(outcomeIndex(outcome)), upstream: int8(upstream),
	}
	last := &a.list[(a.n+keptAttempts-1)%keptAttempts]
	if a.n > 0 && upstream < 0 && last.upstream < 0 && last.outcome == e.outcome {
		last.times++
		return
	}
	a.list[a.n%keptAttempts] = e
	a.n++
}

// Inherit takes over the attempts of old. place returns the new place of an upstream for
// its place in old.
func (a *Attempts) Inherit(old *Attempts, place func(int8) int8) {
	old.mu.Lock()
	list, n := old.list, old.n
	old.mu.Unlock()
	for i := range list {
		list[i].upstream = place(list[i].upstream)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list, a.n = list, n
}

// List returns the attempts, the newest first. upstreams are the names by place.
func (a *Attempts) List(upstreams []string) []Attempt {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]Attempt, 0, min(a.n, keptAttempts))
	for i := range min(a.n, keptAttempts) {
		e := a.list[(a.n-1-i)%keptAttempts]
		s := Attempt{
			At: clock.Stamp(time.Unix(0, e.at)), TookMs: float64(e.took) / 1000, Outcome: outcomes[e.outcome],
		}
		if e.times > 1 {
			s.Times = e.times
		}
		if i := int(e.upstream); i >= 0 && i < len(upstreams) {
			s.Upstream = upstreams[i]
		}
		out = append(out, s)
	}
	return out
}

// Transitions keeps the last transitions of a source's circuits. Its methods may be called
// from several goroutines.
type Transitions struct {
	mu   sync.Mutex
	list map[string][]event.Breaker // by upstream, the oldest first
}

// Add adds a transition.
func (t *Transitions) Add(b event.Breaker) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.list == nil {
		t.list = map[string][]event.Breaker{}
	}
	list := append(t.list[b.Upstream], b)
	t.list[b.Upstream] = slices.Clone(list[max(0, len(list)-keptTransitions):])
}

// Inherit takes over the transitions of old.
func (t *Transitions) Inherit(old *Transitions) {
	old.mu.Lock()
	list := maps.Clone(old.list)
	old.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = list
}

// Of returns the transitions of an upstream, the newest first; never nil.
func (t *Transitions) Of(upstream string) []event.Breaker {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := append([]event.Breaker{}, t.list[upstream]...)
	slices.Reverse(out)
	return out
}

// Lines keeps the last lines of a log. Its methods may be called from several goroutines.
type Lines struct {
	mu   sync.Mutex
	Most int // lines to keep; set before the first use
	list []string
}

// Write implements io.Writer. The caller writes one line at a time.
func (l *Lines) Write(line []byte) (int, error) {
	n := len(line)
	line = bytes.TrimSpace(line)
	if len(line) > lineBytes {
		line = append(bytes.ToValidUTF8(line[:lineBytes], nil), "…"...)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.list) >= l.Most {
		l.list = slices.Delete(l.list, 0, len(l.list)-l.Most+1)
	}
	l.list = append(l.list, string(line))
	return n, nil
}

// Inherit puts the lines of old before its own.
func (l *Lines) Inherit(old *Lines) {
	list := old.List()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(list, l.list...)
	l.list = l.list[max(0, len(l.list)-l.Most):]
}

// List returns the lines, the oldest first; never nil.
func (l *Lines) List() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string{}, l.list...)
}

// Remember returns a logger that writes to log and keeps in l the lines from level info on,
// also those that log leaves out. l does not keep the attributes that log already has.
func Remember(log *slog.Logger, l *Lines) *slog.Logger {
	return slog.New(&rememberer{log.Handler(), slog.NewTextHandler(l, nil)})
}

// rememberer is the handler of Remember.
type rememberer struct{ log, kept slog.Handler }

// Enabled implements slog.Handler.
func (r *rememberer) Enabled(ctx context.Context, level slog.Level) bool {
	return r.log.Enabled(ctx, level) || r.kept.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (r *rememberer) Handle(ctx context.Context, record slog.Record) error {
	if r.kept.Enabled(ctx, record.Level) {
		_ = r.kept.Handle(ctx, record) // writes to memory
	}
	if !r.log.Enabled(ctx, record.Level) {
		return nil
	}
	return r.log.Handle(ctx, record)
}

// WithAttrs implements slog.Handler.
func (r *rememberer) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &rememberer{r.log.WithAttrs(attrs), r.kept.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (r *rememberer) WithGroup(name string) slog.Handler {
	return &rememberer{r.log.WithGroup(name), r.kept.WithGroup(name)}
}

// Attempt is one attempt of a poll to get a value, as the status page shows it.
type Attempt struct {
	At      time.Time `json:"at"` // when it began
	TookMs  float64   `json:"tookMs"`
	Outcome string    `json:"outcome"` // ok, or a reason
	// Upstream answered, or failed last; empty if none was asked.
	Upstream string `json:"upstream,omitempty"`
	// Times is the number of such attempts in a row, if more than one.
	Times uint32 `json:"times,omitempty"`
}
