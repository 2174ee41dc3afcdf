package gateway

import (
	"cmp"
	"context"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/hub"
	"github.com/pollcast/pollcast/services/gateway/memory"
)

// cheap is what a connection may take that is not worth closing, in bytes.
const cheap = 4 << 10

// An evictor counts what everything takes of the memory budget, and closes the
// connections that take most while the budget is exceeded. One goroutine at a
// time counts.
type evictor struct {
	budget  *memory.Budget
	hub     *hub.Hub
	conns   *registry
	sockets *sockets
	metrics *metrics
	log     *slog.Logger

	mu        sync.Mutex
	collected time.Time // garbage, by relieve
	short     bool      // connections are being closed, and the log has it

	last     atomic.Pointer[usage]
	hopeless atomic.Int64 // when nothing could be done, in unix nanoseconds
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

// tally counts what everything takes now.
func (e *evictor) tally(conns []*session) {
	e.budget.Recount(func() int64 {
		u := usage{Base: memory.ProcessCost}
		e.hub.With(func(v *hub.View) { u.Values, u.History, u.Feeds = v.Usage() })
		u.Sockets = int64(e.sockets.count()) * memory.SocketCost
		u.Connections = int64(len(conns)) * memory.ConnectionCost
		kept := map[*hub.Feed]uint64{} // by the slowest connection of each
		for _, c := range conns {
			u.Connections += c.Extra()
			if c.LetGo() {
				continue
			}
			u.Private += c.Private()
			c.Keeps(kept)
		}
		for _, n := range kept {
			u.Feeds += int64(n)
		}
		u.Frames = e.budget.Shared()
		e.last.Store(&u)
		return u.sum()
	})
	e.metrics.memory.Set(float64(e.budget.Used()))
}

// relieve closes the dearest connections while the budget is nearly used up.
func (e *evictor) relieve() (closed int) {
	b := e.budget
	if !b.Over() {
		e.short = e.short && b.Tight()
		return 0
	}
	if now := time.Now(); b.Shared() > b.Limit()/8 && now.Sub(e.collected) > time.Second {
		e.collected = now
		runtime.GC() // some of the big frames may be held by nobody any more
		time.Sleep(time.Millisecond)
	}
	conns := slices.DeleteFunc(e.conns.all(), (*session).IsClosing)
	var evicted []*session
	for b.Used() > b.Part(memory.EvictTo) && len(conns) > 0 {
		type item struct {
			c    *session
			cost int64
		}
		items := make([]item, 0, len(conns))
		for _, c := range conns {
			if n := c.Cost(); n > cheap {
				items = append(items, item{c, n})
			}
		}
		if len(items) == 0 {
			break
		}
		slices.SortFunc(items, func(a, b item) int { return cmp.Compare(b.cost, a.cost) })
		for _, i := range items[:(len(items)+7)/8] { // the worst of them, then count again
			if i.c.Extra() > i.cost/2 {
				i.c.Close(wire.CloseOverloaded, overloaded(errShort.Error()))
			} else {
				i.c.Close(wire.CloseSlowConsumer, "")
			}
			e.metrics.evicted.Inc()
			e.metrics.evictions.Add(1)
			closed++
			evicted = append(evicted, i.c)
		}
		conns = slices.DeleteFunc(conns, (*session).IsClosing)
		e.tally(e.conns.all())
	}
	for end := time.Now().Add(looseWait); !allLoose(evicted) && time.Now().Before(end); {
		time.Sleep(200 * time.Microsecond)
	}
	if !e.short {
		e.short = true
		e.log.Warn("memoryBudget is nearly used up; the slowest connections are closed and new ones refused",
			slog.Int("closed", closed), "used", config.Size(b.Used()), "budget", config.Size(b.Limit()), "usage", *e.last.Load())
	}
	return closed
}

func allLoose(conns []*session) bool {
	return !slices.ContainsFunc(conns, func(c *session) bool { return !c.Loose() })
}

// looseWait is how long the gateway waits for those that it closes to let go.
const looseWait = 20 * time.Millisecond

// watch relieves the budget between sweeps, until ctx ends.
func (e *evictor) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.budget.Kick():
		}
		pause := 5 * time.Millisecond
		if e.recount() == 0 {
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
func (e *evictor) makeRoom() {
	b := e.budget
	if time.Since(time.Unix(0, e.hopeless.Load())) < 50*time.Millisecond {
		return
	}
	for end := time.Now().Add(looseWait); e.recount() == 0 && b.Over() && time.Now().Before(end); {
		if u := e.last.Load(); u.Feeds+u.Frames < b.Part(10) {
			e.hopeless.Store(time.Now().UnixNano())
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// recount adds up and relieves. It returns how many connections it closed.
func (e *evictor) recount() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tally(e.conns.all())
	return e.relieve()
}
