package gateway

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/pkg/wire"
)

// What is not counted byte by byte costs so much, in bytes: a little more than
// was measured, so that the budget holds.
const (
	baseCost   = 24 << 20 // the process without clients and values: code, runtime, NATS's buffers
	connCost   = 7 << 10  // a connection: its goroutine, buffers and bookkeeping; 6.0 to 6.4 KB were measured
	socketCost = 20 << 10 // a socket whose request is not answered yet
	topicCost  = 1 << 10  // a topic, beside its value
	feedCost   = 1 << 10  // a feed, beside its frames
	linkCost   = 128      // a topic in a feed
	eventCost  = 512      // an event in the history, beside its value

	fileCost = 16 << 20 // of baseCost, what Go's runtime does not count: the program's own pages
	cheap    = 4 << 10  // a connection that is not worth closing
)

// Parts of the budget, in percent. Above refuseAt nobody new is let in; above
// evictAt the dearest connections are closed until it is evictTo; what is left
// is for garbage that has not been collected yet.
const (
	refuseAt = 75
	evictAt  = 85
	evictTo  = 70
)

// A budget is the one bound of a gateway's memory. The sweep adds up what
// everything costs; what is queued in between is added as it comes, and too
// much of it brings the next sweep forward.
type budget struct {
	limit   int64
	swept   atomic.Int64
	grown   atomic.Int64  // since the last sweep
	passing atomic.Int64  // answers being made
	shared  atomic.Int64  // big frames, which any number of feeds may hold, until they are collected
	kick    chan struct{} // wants a sweep now

	last      atomic.Pointer[usage]
	hopeless  atomic.Int64 // when there was nothing to be done, in unix nanoseconds
	collected time.Time    // garbage, by relieve
	short     bool         // connections are being closed, and it was said; the sweep's
}

func newBudget(limit config.Size) *budget {
	return &budget{limit: int64(limit), kick: make(chan struct{}, 1)}
}

func (b *budget) used() int64 {
	return b.swept.Load() + b.grown.Load() + b.passing.Load() + b.shared.Load()
}
func (b *budget) part(percent int) int64 { return b.limit / 100 * int64(percent) }

// grow counts bytes that something took since the last sweep.
func (b *budget) grow(n int64) {
	b.grown.Add(n)
	if b.over() {
		select {
		case b.kick <- struct{}{}:
		default:
		}
	}
}

// over reports whether connections must be closed, tight whether nothing should
// be taken that can be done without.
func (b *budget) over() bool  { return b.used() > b.part(evictAt) }
func (b *budget) tight() bool { return b.used() > b.part(refuseAt) }

// room reports whether there is room for n bytes more of something that can be
// refused.
func (b *budget) room(n int64) bool { return b.used()+n <= b.part(refuseAt) }

// pass takes n bytes for an answer, until the function it returns is called;
// nil when there is no room.
func (b *budget) pass(n int64) (done func()) {
	if !b.room(n) {
		return nil
	}
	b.passing.Add(n)
	return func() { b.passing.Add(-n) }
}

// share counts a big frame for as long as somebody holds it.
func (b *budget) share(frame []byte) {
	if len(frame) < bigFrame {
		return
	}
	n := int64(cap(frame))
	b.shared.Add(n)
	runtime.AddCleanup(&frame[0], func(n int64) { b.shared.Add(-n) }, n)
	b.grow(0)
}

// usage is what takes how much of the budget, in bytes.
type usage struct {
	Base        int64 `json:"base"`
	Connections int64 `json:"connections"` // with their subscriptions and the messages being read
	Sockets     int64 `json:"sockets"`     // without an answer yet
	Private     int64 `json:"private"`     // snapshots, replays and answers on their way
	Feeds       int64 `json:"feeds"`       // with what slow clients keep alive
	Frames      int64 `json:"frames"`      // big ones, shared by feeds
	Values      int64 `json:"values"`
	History     int64 `json:"history"`
}

func (u *usage) sum() int64 {
	return u.Base + u.Connections + u.Sockets + u.Private + u.Feeds + u.Values + u.History
}

// usage adds up what the hub itself holds.
func (h *hub) usage() (u usage) {
	h.mu.Lock()
	defer h.mu.Unlock()
	u.Values = h.valueBytes + int64(len(h.topics)+len(h.polls))*topicCost
	u.History = int64(h.history.bytes)
	now := h.now()
	for _, f := range h.feeds {
		f.dropOpenings(now)
		u.Feeds += feedCost + f.named + int64(len(f.topics)+len(f.polls))*linkCost + int64(len(f.tail.buf))
	}
	return u
}

// tally adds up what everything costs now.
func (s *server) tally(conns []*conn) {
	b := s.budget
	grown := b.grown.Load()
	u := s.hub.usage()
	u.Base = baseCost
	u.Sockets = int64(s.sockets.count()) * socketCost
	u.Connections = int64(len(conns)) * connCost
	kept := map[*feed]uint64{} // by the slowest of each
	for _, c := range conns {
		u.Connections += c.extra.Load()
		if c.letGo() {
			continue
		}
		u.Private += c.private.Load()
		c.keeps(kept)
	}
	for _, n := range kept {
		u.Feeds += int64(n)
	}
	b.swept.Store(u.sum())
	u.Frames = b.shared.Load()
	b.last.Store(&u)
	b.grown.Add(-grown)
	s.metrics.memory.Set(float64(b.used()))
}

// letGo reports whether the connection is closed for what it costs: it holds
// at most the rest of a frame then.
func (c *conn) letGo() bool {
	if c.closed.Load() == 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.costly()
}

// keeps notes how much of each feed the connection keeps alive.
func (c *conn) keeps(kept map[*feed]uint64) {
	reading, of, to, ahead := c.lags()
	if of > 0 {
		kept[reading] = max(kept[reading], less(reading.owned.Load(), c.own.Load()))
	}
	if ahead > 0 {
		kept[to] = max(kept[to], less(to.owned.Load(), c.enteredOwn.Load()))
	}
}

// cost is what closing the connection may free, in bytes. One whose socket
// takes what there is costs nothing by being behind.
func (c *conn) cost() int64 {
	n := c.private.Load() + c.extra.Load()
	if c.draining.Load() {
		n += int64(c.lag())
	}
	return n
}

// relieve closes the dearest connections while the budget is nearly used up.
func (s *server) relieve() (closed int) {
	b := s.budget
	if !b.over() {
		b.short = b.short && b.tight()
		return 0
	}
	if now := time.Now(); b.shared.Load() > b.limit/8 && now.Sub(b.collected) > time.Second {
		b.collected = now
		runtime.GC() // some of the big frames may be held by nobody any more
		time.Sleep(time.Millisecond)
	}
	conns := slices.DeleteFunc(s.conns.all(), (*conn).isClosing)
	var evicted []*conn
	for b.used() > b.part(evictTo) && len(conns) > 0 {
		type item struct {
			c    *conn
			cost int64
		}
		items := make([]item, 0, len(conns))
		for _, c := range conns {
			if n := c.cost(); n > cheap {
				items = append(items, item{c, n})
			}
		}
		if len(items) == 0 {
			break
		}
		slices.SortFunc(items, func(a, b item) int { return cmp.Compare(b.cost, a.cost) })
		for _, i := range items[:(len(items)+7)/8] { // the worst of them, then count again
			if i.c.extra.Load() > i.cost/2 {
				i.c.close(wire.CloseOverloaded, overloaded(errShort.Error()))
			} else {
				i.c.close(wire.CloseSlowConsumer, "")
			}
			s.metrics.evicted.Inc()
			s.metrics.evictions.Add(1)
			closed++
			evicted = append(evicted, i.c)
		}
		conns = slices.DeleteFunc(conns, (*conn).isClosing)
		s.tally(s.conns.all())
	}
	for end := time.Now().Add(looseWait); !allLoose(evicted) && time.Now().Before(end); {
		time.Sleep(200 * time.Microsecond)
	}
	if !b.short {
		b.short = true
		s.log.Warn("memoryBudget is nearly used up; the slowest connections are closed and new ones refused", slog.Int("closed", closed), "used", config.Size(b.used()), "budget", config.Size(b.limit), "usage", *b.last.Load())
	}
	return closed
}

func allLoose(conns []*conn) bool {
	return !slices.ContainsFunc(conns, func(c *conn) bool { return !c.loose.Load() && !c.gone.Load() })
}

// looseWait is how long the gateway waits for those that it closes to let go.
const looseWait = 20 * time.Millisecond

// watch relieves the budget between sweeps, until ctx ends.
func (s *server) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.budget.kick:
		}
		pause := 5 * time.Millisecond
		if s.recount() == 0 {
			pause *= 10 // nothing can be done
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// makeRoom relieves the budget before more is taken in. If nobody can be closed
// it gives the writers time to catch up, unless it is not their doing.
func (s *server) makeRoom() {
	b := s.budget
	if time.Since(time.Unix(0, b.hopeless.Load())) < 50*time.Millisecond {
		return
	}
	for end := time.Now().Add(looseWait); s.recount() == 0 && b.over() && time.Now().Before(end); {
		if u := b.last.Load(); u.Feeds+u.Frames < b.part(10) {
			b.hopeless.Store(time.Now().UnixNano())
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// recount adds up and relieves. It returns how many connections it closed.
func (s *server) recount() int {
	s.counting.Lock()
	defer s.counting.Unlock()
	s.tally(s.conns.all())
	return s.relieve()
}

// memory is the budget that a configuration means: 0 stands for half of what
// the container, or else the machine, has.
func (c *Config) memory() config.Size {
	if c.MemoryBudget > 0 {
		return c.MemoryBudget
	}
	return max(minBudget, min(available()/2, maxBudget))
}

// LimitMemory has the runtime collect garbage early enough for the whole
// process to stay within the budget, unless GOMEMLIMIT says otherwise. It is
// for the main of a process that is a gateway and nothing else.
func LimitMemory(c Config) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(c.memory()) - fileCost)
	}
}

// Bounds of the budget that is derived, and what is taken for the machine's
// memory where it cannot be read.
const (
	minBudget     config.Size = 64 << 20
	maxBudget     config.Size = 8 << 30
	unknownMemory config.Size = 2 << 30
)

// available is how much memory the process may use.
func available() config.Size {
	least := unknownMemory
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
				if kb, err := strconv.ParseInt(f[1], 10, 64); err == nil {
					least = config.Size(kb << 10)
				}
			}
		}
	}
	// Version 2 and 1, as a container sees its own.
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if b, err := os.ReadFile(file); err == nil {
			if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && n > 0 {
				least = min(least, config.Size(n))
			}
		}
	}
	return least
}
