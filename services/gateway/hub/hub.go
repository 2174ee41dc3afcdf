package hub

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/pkg/throttle"
	"github.com/pollcast/pollcast/services/gateway/memory"
)

// Options of New. All are needed.
type Options struct {
	Encoder Encoder
	Budget  *memory.Budget
	Metrics Metrics
	Log     *slog.Logger

	MaxTopics    int // topics with a value, and as many that are waited for
	History      int // events
	HistoryBytes int // bytes of them

	// Groups returns the groups of connections of a new feed.
	Groups func(*Feed) []Group
	// OnShort makes room in the budget. It is called without the hub's mutex.
	OnShort func()
	// OnReset ends every connection: what they know is of another epoch. It is
	// called without the hub's mutex.
	OnReset func()
}

// A Group is the connections of a feed that one goroutine serves.
type Group interface {
	// Wake reports that the feed has grown. It is called under the hub's mutex and
	// must not wait.
	Wake()
}

// Metrics are what the hub counts.
type Metrics struct {
	TopicsRefused, Compressed, Snapshots, Records Counter
	Polls, PollsStale, Topics, Feeds, ClockAhead  Gauge
	RecordDelay                                   Histogram // seconds
}

// Counter, Gauge and Histogram are the parts of Prometheus that the hub uses.
type (
	Counter interface {
		Add(float64)
		Inc()
	}
	Gauge     interface{ Set(float64) }
	Histogram interface{ Observe(float64) }
)

// shared is what the hub and its View both use, without the mutex.
type shared struct {
	Options
	now      func() time.Time
	clockLog throttle.Gate // of lines about a clock that is ahead
	// compressed is the number of feeds whose format is compressed.
	compressed atomic.Int64
	lock       func(func(*View)) // With, for timers
}

// A Hub knows the last value of every topic, the freshness of every poll, and
// the feeds that want them. It never waits for a client: it appends to feeds.
// Its methods may be called by any goroutine; what is under its mutex is reached
// through a View only.
type Hub struct {
	shared
	mu   sync.Mutex
	view View
}

// New returns a hub that knows nothing yet.
func New(o Options) *Hub {
	h := &Hub{shared: shared{Options: o, now: time.Now}}
	h.lock = h.With
	h.view = View{
		shared: &h.shared, link: link{down: true, why: "starting"},
		feeds: map[string]*Feed{}, wild: map[*Feed]struct{}{},
		history: history{max: o.History, maxBytes: o.HistoryBytes},
	}
	h.view.clear()
	return h
}

// With calls fn under the hub's mutex. fn must not keep the View, nor wait.
func (h *Hub) With(fn func(*View)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fn(&h.view)
}

// Now returns the time by the hub's clock.
func (h *Hub) Now() time.Time { return h.now() }
