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

// What an operator looks at when something is wrong: the last attempts of each
// poll, the last lines of its log and of its source's, and what the circuits
// did. All of it is bounded, so that 5,000 polls need a few megabytes.
const (
	keptAttempts    = 50
	keptTransitions = 20  // of a circuit
	PollLines       = 5   // of the log
	SourceLines     = 20  // of the log
	lineBytes       = 600 // of one line
)

// attempts is the ring of a poll's last attempts. A tick that the breaker did
// not let through is one, too; several in a row are counted in one entry, so
// that they do not push out what opened the breaker.
type Attempts struct {
	mu   sync.Mutex
	list [keptAttempts]tried
	n    uint32 // added so far
}

// tried is one entry, 24 bytes.
type tried struct {
	at       int64  // nanoseconds since the Unix epoch, when it began
	took     uint32 // microseconds
	times    uint32
	outcome  uint8 // place in outcomes
	upstream int8  // place in the source's upstreams; -1: none was asked
}

func (a *Attempts) Add(outcome string, began time.Time, took time.Duration, upstream int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := tried{
		at: began.UnixNano(), took: uint32(min(took.Microseconds(), 1<<32-1)), times: 1,
		outcome: uint8(outcomeIndex(outcome)), upstream: int8(upstream),
	}
	if last := &a.list[(a.n+keptAttempts-1)%keptAttempts]; a.n > 0 && upstream < 0 && last.upstream < 0 && last.outcome == e.outcome {
		last.times++
		return
	}
	a.list[a.n%keptAttempts] = e
	a.n++
}

// inherit takes over those of a predecessor, whose upstreams had other places.
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

// look gives them, the newest first.
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

// turns keeps the last transitions of a source's circuits, by upstream.
type Transitions struct {
	mu   sync.Mutex
	list map[string][]event.Breaker
}

func (t *Transitions) Add(b event.Breaker) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.list == nil {
		t.list = map[string][]event.Breaker{}
	}
	list := append(t.list[b.Upstream], b)
	t.list[b.Upstream] = slices.Clone(list[max(0, len(list)-keptTransitions):])
}

func (t *Transitions) Inherit(old *Transitions) {
	old.mu.Lock()
	list := maps.Clone(old.list)
	old.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = list
}

// look gives those of an upstream, the newest first.
func (t *Transitions) Of(upstream string) []event.Breaker {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := append([]event.Breaker{}, t.list[upstream]...)
	slices.Reverse(out)
	return out
}

// lines keeps the last lines of a log.
type Lines struct {
	mu   sync.Mutex
	Most int
	list []string
}

// Write implements io.Writer; it gets one line at a time.
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

// inherit puts the lines of a predecessor before its own.
func (l *Lines) Inherit(old *Lines) {
	list := old.List()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(list, l.list...)
	l.list = l.list[max(0, len(l.list)-l.Most):]
}

func (l *Lines) List() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string{}, l.list...)
}

// remember is log, of which l keeps the last lines from level info, whether log
// writes them or not. What log adds to every line by itself is not kept.
func Remember(log *slog.Logger, l *Lines) *slog.Logger {
	return slog.New(&rememberer{log.Handler(), slog.NewTextHandler(l, nil)})
}

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

// AttemptStatus is one attempt of a poll to get a value.
type Attempt struct {
	At      time.Time `json:"at"` // when it began
	TookMs  float64   `json:"tookMs"`
	Outcome string    `json:"outcome"` // ok, or a reason
	// Upstream is the one that answered, or failed last; empty if the breaker let
	// none be asked.
	Upstream string `json:"upstream,omitempty"`
	// Times is how many such attempts in a row this stands for, if more than one.
	Times uint32 `json:"times,omitempty"`
}
