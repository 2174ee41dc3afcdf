package poller

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
)

// chain is a node of a block chain, over JSON-RPC. Block n of fork f is f·n.
type chain struct {
	*httptest.Server
	mu     sync.Mutex
	blocks []string       // hash of each
	fork   int            // of what is grown next
	lag    int            // the node does not have the newest, but counts them
	fails  map[int]string // by position: "503", "reject", "hang"
	delay  time.Duration
	down   bool
	asked  map[int]int
	most   int // positions in one HTTP request
}

func newChain(t testing.TB, length int) *chain {
	c := &chain{fails: map[int]string{}, asked: map[int]int{}}
	c.grow(length)
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *chain) grow(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range n {
		c.blocks = append(c.blocks, fmt.Sprintf("%d.%d", c.fork, len(c.blocks)))
	}
}

// shrink takes the newest n away.
func (c *chain) shrink(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.blocks = c.blocks[:len(c.blocks)-n]
}

// reorg replaces the newest n by others and grows by more.
func (c *chain) reorg(n, more int) {
	c.shrink(n)
	c.mu.Lock()
	c.fork++
	c.mu.Unlock()
	c.grow(n + more)
}

func (c *chain) set(f func()) { c.mu.Lock(); defer c.mu.Unlock(); f() }

func (c *chain) head() int { c.mu.Lock(); defer c.mu.Unlock(); return len(c.blocks) - 1 }

func (c *chain) counts() map[int]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[int]int{}
	for k, v := range c.asked {
		out[k] = v
	}
	return out
}

type chainCall struct {
	ID     int      `json:"id"`
	Method string   `json:"method"`
	Params []string `json:"params"`
}

func (c *chain) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var batch []chainCall
	if json.Unmarshal(body, &batch) == nil {
		var all []string
		n := 0
		for _, call := range batch {
			text, status := c.answer(r, call)
			if status != 200 {
				w.WriteHeader(status)
				return
			}
			all = append(all, text)
			if call.Method == "block" {
				n++
			}
		}
		c.set(func() { c.most = max(c.most, n) })
		_, _ = io.WriteString(w, "["+strings.Join(all, ",")+"]")
		return
	}
	var call chainCall
	_ = json.Unmarshal(body, &call)
	text, status := c.answer(r, call)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

func (c *chain) answer(r *http.Request, call chainCall) (string, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	result := func(v any) (string, int) {
		data, _ := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": call.ID, "result": v})
		return string(data), 200
	}
	switch {
	case c.down:
		return "", 503
	case call.Method == "head":
		return result("0x" + strconv.FormatInt(int64(len(c.blocks)-1), 16))
	}
	n, err := strconv.ParseInt(call.Params[0], 0, 64)
	if err != nil || !strings.HasPrefix(call.Params[0], "0x") {
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"error":{"code":-32602,"message":"no number"}}`, call.ID), 200
	}
	c.asked[int(n)]++
	if c.delay > 0 {
		c.mu.Unlock()
		time.Sleep(c.delay)
		c.mu.Lock()
	}
	switch c.fails[int(n)] {
	case "503":
		return "", 503
	case "reject":
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"error":{"code":-32602,"message":"no"}}`, call.ID), 200
	case "hang":
		c.mu.Unlock()
		<-r.Context().Done()
		c.mu.Lock()
		return "", 503
	}
	if int(n) >= len(c.blocks)-c.lag {
		return result(nil)
	}
	parent := "none"
	if n > 0 {
		parent = c.blocks[n-1]
	}
	return result(map[string]any{"number": call.Params[0], "hash": c.blocks[n], "parentHash": parent})
}

// follow configures a poll that walks the chain.
func (c *chain) follow(interval time.Duration, f config.Follow) config.Config {
	f.Head.Method, f.Head.Select = "head", "fromhex"
	return config.Config{Sources: map[string]config.Source{"eth": {
		Upstreams: []string{c.URL}, Breaker: config.Breaker{Failures: 5, OpenFor: time.Second},
		Polls: map[string]config.Poll{"blocks": {Interval: interval, Method: "block", Params: []any{"{{ $position | hex }}"}, Follow: &f}},
	}}}
}

var ids = config.Follow{ID: ".hash", Parent: ".parentHash", Start: "0"}

// ledger is what a reader makes of the events: the chain as told, and whether
// it was told without a hole and without a repetition.
type ledger struct {
	t        testing.TB
	version  uint64
	began    bool
	position int64
	hashes   map[int64]string
	turns    []event.Reorganisation
}

func newLedger(t testing.TB) *ledger { return &ledger{t: t, hashes: map[int64]string{}} }

func (l *ledger) read(e *event.Event) {
	l.t.Helper()
	if e.Version != l.version+1 {
		l.t.Errorf("version %d after %d", e.Version, l.version)
	}
	l.version = e.Version
	if e.Position == nil {
		l.t.Fatalf("an event without a position: %+v", e)
	}
	n := *e.Position
	if e.Reorganised {
		var v event.Reorganisation
		if err := json.Unmarshal(e.Data, &v); err != nil || v.Reorganised.To != n || v.Reorganised.From != l.position || n >= l.position {
			l.t.Errorf("taken back to %d at %d: %s, %v", n, l.position, e.Data, err)
		}
		l.turns = append(l.turns, v)
		for k := range l.hashes {
			if k > n {
				delete(l.hashes, k)
			}
		}
		l.position = n
		return
	}
	if l.began && n != l.position+1 {
		l.t.Errorf("position %d after %d", n, l.position)
	}
	var b struct{ Hash string }
	if err := json.Unmarshal(e.Data, &b); err != nil {
		l.t.Error(err)
	}
	l.began, l.position, l.hashes[n] = true, n, b.Hash
}

// wantChain says that the ledger has what the node has, from a position on.
func (l *ledger) wantChain(when string, c *chain, from int) {
	l.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if int(l.position) != len(c.blocks)-1 {
		l.t.Errorf("%s: told up to %d, the head is %d", when, l.position, len(c.blocks)-1)
	}
	for n := from; n < len(c.blocks); n++ {
		if l.hashes[int64(n)] != c.blocks[n] {
			l.t.Errorf("%s: told %q of %d, want %q", when, l.hashes[int64(n)], n, c.blocks[n])
		}
	}
}

// upTo reads until the newest position told is n.
func (w *watcher) upTo(l *ledger, n int) {
	w.t.Helper()
	w.until(fmt.Sprintf("position %d", n), func(m bus.Message) bool {
		if m.Event != nil {
			l.read(m.Event)
		}
		return l.began && l.position == int64(n)
	})
}

// tells reads until a freshness record says something.
func (w *watcher) tells(l *ledger, what string, ok func(*event.Freshness) bool) *event.Freshness {
	w.t.Helper()
	return w.until(what, func(m bus.Message) bool {
		if m.Event != nil {
			l.read(m.Event)
		}
		return m.Fresh != nil && ok(m.Fresh)
	}).Fresh
}

// reaches reads until the walk is confirmed to be at the head.
func (w *watcher) reaches(l *ledger, c *chain) {
	w.t.Helper()
	want := c.head()
	begin := time.Now()
	w.until(fmt.Sprintf("fresh at position %d", want), func(m bus.Message) bool {
		if m.Event != nil {
			l.read(m.Event)
		}
		return m.Fresh != nil && !m.Fresh.Stale && m.Fresh.AsOf.After(begin) && l.position == int64(want)
	})
}

func TestFollow(t *testing.T) {
	s, c := bustest.Start(t), newChain(t, 40)
	w, l := watch(t, s), newLedger(t)
	f := ids
	f.MaxPerTick = 7
	p := run(t, c.follow(100*time.Millisecond, f), s.Config())
	w.upTo(l, 39)
	l.wantChain("from the beginning", c, 0)
	for n, asked := range c.counts() {
		if asked != 1 {
			t.Errorf("position %d was asked for %d times", n, asked)
		}
	}
	records := 0
	for _, m := range w.seen {
		if m.Fresh != nil && !m.Fresh.Stale {
			records++
		}
	}
	if records != 0 {
		t.Errorf("%d records say fresh before the head is reached", records)
	}
	w.reaches(l, c)
	c.grow(3)
	w.reaches(l, c)
	l.wantChain("grown", c, 0)

	// The node counts blocks that it does not have.
	c.set(func() { c.lag = 2 })
	c.grow(4)
	w.upTo(l, 44)
	fresh := w.tells(l, "behind for longer than maxAge", func(f *event.Freshness) bool { return f.Stale })
	if fresh.Reason != event.NotAdvancing || fresh.Breaker != event.Closed || fresh.Detail != "behind the head: position 45 is not there yet, the head is 46" {
		t.Errorf("behind: %+v", fresh)
	}
	c.set(func() { c.lag = 0 })
	w.reaches(l, c)
	l.wantChain("no longer behind", c, 0)

	// A position that fails is not skipped.
	for _, tt := range []struct {
		mode   string
		reason event.Reason
	}{{"503", event.UpstreamError}, {"reject", event.RequestRejected}, {"hang", event.Timeout}} {
		next := c.head() + 2
		c.set(func() { c.fails[next] = tt.mode })
		c.grow(3)
		w.upTo(l, next-1)
		fresh = w.tells(l, "stale", func(f *event.Freshness) bool { return f.Stale && f.Reason == tt.reason })
		if !strings.HasPrefix(fresh.Detail, fmt.Sprintf("position %d: ", next)) {
			t.Errorf("%s: %+v", tt.mode, fresh)
		}
		c.set(func() { delete(c.fails, next) })
		w.reaches(l, c)
		l.wantChain(tt.mode, c, 0)
	}
	st := p.Status().Sources[0].Polls[0]
	if st.Position == nil || *st.Position != int64(c.head()) || st.Head == nil || *st.Head != int64(c.head()) || st.Version != l.version {
		t.Errorf("status %+v", st)
	}
	if m := gather(t, p.reg); !strings.Contains(m, `pollcast_poller_positions_behind{poll="eth.blocks"} 0`) {
		t.Error("no metric of how far it is behind")
	}
	if len(l.turns) != 0 {
		t.Errorf("turns without a reason: %+v", l.turns)
	}
}

// What a reorganised chain has published is taken back to where it parted, and
// no further.
func TestFollowReorganised(t *testing.T) {
	for _, batch := range []bool{false, true} {
		t.Run(fmt.Sprint("batch=", batch), func(t *testing.T) {
			s, c := bustest.Start(t), newChain(t, 30)
			w, l := watch(t, s), newLedger(t)
			f := ids
			f.MaxPerTick = 50
			cfg := c.follow(100*time.Millisecond, f)
			src := cfg.Sources["eth"]
			src.Batch = batch
			cfg.Sources["eth"] = src
			p := run(t, cfg, s.Config())
			w.reaches(l, c)
			for i, tt := range []struct{ back, more, to int }{
				{1, 1, 28}, {1, 0, 29}, {5, 3, 0}, {4, -2, 0}, {20, 1, 0},
			} {
				old := c.head()
				to := old - tt.back
				if tt.more == 0 { // the new head has the old number: seen when it grows
					c.reorg(tt.back, 0)
					time.Sleep(300 * time.Millisecond)
					c.grow(1)
				} else if tt.more < 0 {
					c.reorg(tt.back, 0)
					c.shrink(-tt.more)
				} else {
					c.reorg(tt.back, tt.more)
				}
				if i == 3 { // also by somebody who was not there
					p.stop()
					p = run(t, cfg, s.Config())
				}
				w.reaches(l, c)
				l.wantChain(fmt.Sprint("reorganisation ", i), c, 0)
				if len(l.turns) != i+1 {
					t.Fatalf("%d turns after %d reorganisations: %+v", len(l.turns), i+1, l.turns)
				}
				v := l.turns[i].Reorganised
				if v.From != int64(old) || v.To != int64(to) || string(v.ID) != strconv.Quote(l.hashes[int64(to)]) {
					t.Errorf("reorganisation %d: from %d to %d with id %s, want %d to %d with %q", i, v.From, v.To, v.ID, old, to, l.hashes[int64(to)])
				}
			}
			if batch && c.most < 2 {
				t.Error("no two positions came in one batch")
			}
			if !strings.Contains(p.log.String(), "positions taken back") {
				t.Error("no log line")
			}
		})
	}
}

// Deeper than the stream's history, all that is known is taken back.
func TestFollowReorganisedDeep(t *testing.T) {
	s, c := bustest.Start(t), newChain(t, 30)
	b := s.Config()
	b.History = 10
	w, l := watch(t, s), newLedger(t)
	run(t, c.follow(100*time.Millisecond, ids), b)
	w.reaches(l, c)
	c.reorg(25, 1)
	w.reaches(l, c)
	if len(l.turns) != 1 || l.turns[0].Reorganised.To != 19 {
		t.Fatalf("turns %+v, want one to 19: the history begins at 20", l.turns)
	}
	l.wantChain("what came after", c, 20)
}

// Without ids a head that is lower is believed when it stays so for maxAge.
func TestFollowShrunk(t *testing.T) {
	s, c := bustest.Start(t), newChain(t, 20)
	w, l := watch(t, s), newLedger(t)
	run(t, c.follow(100*time.Millisecond, config.Follow{Start: "latest"}), s.Config())
	w.reaches(l, c)
	if len(l.hashes) != 1 || l.position != 19 {
		t.Errorf("began with %v", l.hashes)
	}
	c.shrink(3) // for a moment
	time.Sleep(150 * time.Millisecond)
	c.grow(4)
	w.reaches(l, c)
	if len(l.turns) != 0 {
		t.Errorf("turns: %+v", l.turns)
	}
	c.shrink(8)
	w.reaches(l, c)
	if len(l.turns) != 1 || l.turns[0].Reorganised.From != 20 || l.turns[0].Reorganised.To != 12 {
		t.Fatalf("turns %+v", l.turns)
	}
	c.grow(2)
	w.reaches(l, c)
	if l.position != 14 {
		t.Errorf("at %d, want 14", l.position)
	}

	// With ids an upstream that is only behind is waited for.
	s, c = bustest.Start(t), newChain(t, 20)
	w, l = watch(t, s), newLedger(t)
	run(t, c.follow(100*time.Millisecond, ids), s.Config())
	w.reaches(l, c)
	var blocks []string
	c.set(func() { blocks = slices.Clone(c.blocks) })
	c.shrink(5)
	behind := w.tells(l, "behind", func(f *event.Freshness) bool { return f.Stale })
	if behind.Reason != event.NotAdvancing || behind.Detail != "behind the head: the head is 14, and position 19 is published" {
		t.Errorf("shrunk: %+v", behind)
	}
	time.Sleep(500 * time.Millisecond)
	c.set(func() { c.blocks = blocks })
	c.grow(1)
	w.reaches(l, c)
	if len(l.turns) != 0 {
		t.Errorf("turns: %+v", l.turns)
	}
	l.wantChain("caught up", c, 0)
}
