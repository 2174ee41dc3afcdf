package gateway

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/pollcast/pollcast/pkg/throttle"
	"github.com/pollcast/pollcast/services/gateway/hub"
	"github.com/pollcast/pollcast/services/gateway/memory"
)

const (
	// maxReadbacks is how many readbacks are read at a time. The others wait.
	maxReadbacks = 4
	// replayWait bounds what reading the stream back may take, with the wait for
	// others.
	replayWait = 10 * time.Second
	// readAhead is how many messages more are read than were asked for, for those
	// who come next and are a little further behind.
	readAhead = 1000
	// readbackKept is how long what was read is kept for those who come next.
	readbackKept = time.Second
)

// fill reads a gap back. The caller calls done when it is through with it.
func (r *readbacks) fill(g *hub.Gap) (done func()) {
	if r.source == nil {
		return func() {}
	}
	b, err := r.get(g.Patterns, g.After)
	if err != nil {
		r.logUnread(err)
		return func() {}
	}
	g.Found = &b.past
	return func() { r.put(b) }
}

// unreadLogEvery is the shortest time between two log lines about resumes for
// which the stream could not be read back: there may be thousands.
const unreadLogEvery = 10 * time.Second

// logUnread logs that the stream could not be read back for a client.
func (r *readbacks) logUnread(err error) {
	if n := r.unread.Pass(r.hub.Now(), unreadLogEvery); n > 0 {
		r.log.Warn("cannot read the stream back for clients that resume; they get a snapshot", "clients", n, "error", err)
	}
}

// errCutShort is the error of a server that led the stream once and reports that
// there is no more although there is.
var errCutShort = errors.New("NATS holds less than was read from it before")

// errReadback is the error of reading the stream back for too long.
var errReadback = errors.New("reading the stream back took longer than " + replayWait.String())

// A readback is one reading of an earlier part of the stream, for all clients that
// need the same topics at the same time.
type readback struct {
	key      string
	patterns []string
	done     chan struct{} // closed when it was read, or could not be

	// Once it is the current one.
	from, to uint64 // positions
	era      int    // of the history that goes on after it

	// Once done.
	past  hub.Stretch
	err   error
	ended time.Time

	// Guarded by readbacks.
	least uint64 // the lowest position asked for, while it has not begun
	users int    // who ask for it or look at it
	kept  bool   // in readbacks.current
	cost  int64  // bytes counted in the budget
}

// readbacks are at most two for each set of patterns: the current one, which is
// being read or was lately, and the next one. Clients that are further behind than
// the current one reaches wait together for the next one.
type readbacks struct {
	hub    *hub.Hub
	budget *memory.Budget
	source replayer // nil: nothing beyond the hub's history
	count  hub.Counter
	log    *slog.Logger
	unread throttle.Gate // of log lines

	mu      sync.Mutex
	current map[string]*readback
	next    map[string]*readback
	turns   chan struct{}
	bytes   int64 // of all
}

func newReadbacks(h *hub.Hub, budget *memory.Budget, count hub.Counter, log *slog.Logger) *readbacks {
	return &readbacks{
		hub: h, budget: budget, count: count, log: log,
		current: map[string]*readback{}, next: map[string]*readback{}, turns: make(chan struct{}, maxReadbacks),
	}
}

// get returns a readback of what patterns match that begins at seq or before
// and ends where the history begins, or fails after replayWait. The caller gives
// it back (put). The first caller that asks for one reads it, for all.
func (r *readbacks) get(patterns []string, seq uint64) (*readback, error) {
	ctx, cancel := context.WithTimeout(context.Background(), replayWait)
	defer cancel()
	var from uint64
	var era int
	r.hub.With(func(v *hub.View) { from, era = v.HistoryFrom() })
	key := strings.Join(patterns, "\n")
	r.mu.Lock()
	b := r.current[key]
	if b != nil && b.fits(seq, from, era) {
		b.users++
		r.mu.Unlock()
		return r.wait(ctx, b)
	}
	before := b
	if b = r.next[key]; b != nil {
		b.least = min(b.least, seq)
		b.users++
		r.mu.Unlock()
		return r.wait(ctx, b)
	}
	b = &readback{key: key, patterns: patterns, least: seq, done: make(chan struct{}), users: 1}
	r.next[key] = b
	r.mu.Unlock()
	r.read(ctx, b, before)
	return r.wait(ctx, b)
}

// fits reports whether a current readback has, or will have, what a client at
// seq lacks, given where the history begins.
func (b *readback) fits(seq, from uint64, era int) bool {
	select {
	case <-b.done:
		if b.err != nil || !b.past.Checked() {
			return false
		}
	default:
	}
	return seq >= b.from && b.to >= from && b.era == era
}

// wait returns a readback when it is done.
func (r *readbacks) wait(ctx context.Context, b *readback) (*readback, error) {
	var err error
	select {
	case <-b.done:
		err = b.err
	case <-ctx.Done():
		err = errReadback
	}
	if err != nil {
		r.put(b)
		return nil, err
	}
	return b, nil
}

// read waits for the current readback, if there is one, and for a turn, and
// then reads.
func (r *readbacks) read(ctx context.Context, b, before *readback) {
	defer close(b.done)
	most := r.budget.Part(2)
	err := r.turn(ctx, before)
	var done func()
	if err == nil {
		defer func() { <-r.turns }()
		if done = r.budget.Pass(2 * most); done == nil {
			err = errShort
		}
	}
	var to uint64
	var era int
	r.hub.With(func(v *hub.View) { to, era = v.HistoryReach() })
	r.mu.Lock()
	delete(r.next, b.key) // who comes from here on finds its position fixed
	b.from, b.to, b.era, b.err = memory.Less(b.least, readAhead), to, era, err
	if err == nil {
		if old := r.current[b.key]; old != nil {
			r.drop(old)
		}
		r.current[b.key], b.kept = b, true
	}
	r.mu.Unlock()
	if err != nil {
		return
	}
	defer done()
	b.past, b.err = r.source.replay(ctx, b.patterns, b.from, b.to, int(most))
	r.count.Inc()
	if b.err == nil {
		r.hub.With(func(v *hub.View) { v.Check(&b.past, era) })
	}
	b.ended = time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	b.cost = int64(b.past.Bytes)
	r.budget.Hold(b.cost)
	r.bytes += b.cost
	if b.err != nil {
		r.drop(b)
	}
	for _, old := range r.current { // of different patterns there may be any number
		if r.bytes > r.budget.Part(8) && old != b && old.over() {
			r.drop(old)
		}
	}
}

// turn waits until before is done and fewer than maxReadbacks are under way.
func (r *readbacks) turn(ctx context.Context, before *readback) error {
	if before != nil {
		select {
		case <-before.done:
		case <-ctx.Done():
			return errReadback
		}
	}
	select {
	case r.turns <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errReadback
	}
}

func (b *readback) over() bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

// put gives a readback back.
func (r *readbacks) put(b *readback) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b.users--
	r.release(b)
}

// drop keeps a readback no longer for those who come next. The caller holds the
// mutex.
func (r *readbacks) drop(b *readback) {
	b.kept = false
	delete(r.current, b.key)
	r.release(b)
}

// release counts the memory of a readback that nobody looks at any more as free.
func (r *readbacks) release(b *readback) {
	if b.users == 0 && !b.kept {
		r.budget.Hold(-b.cost)
		r.bytes -= b.cost
		b.cost = 0
	}
}

// sweep drops what was kept for long enough.
func (r *readbacks) sweep(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.current {
		if b.over() && now.Sub(b.ended) > readbackKept {
			r.drop(b)
		}
	}
}
