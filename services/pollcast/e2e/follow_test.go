package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// chain is a JSON-RPC server of numbered blocks that grow and are replaced.
type chain struct {
	*httptest.Server
	mu     sync.Mutex
	hashes []string
	fork   int
	asked  int
}

func newChain(t testing.TB, length int) *chain {
	c := new(chain)
	c.grow(length)
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *chain) grow(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range n {
		c.hashes = append(c.hashes, fmt.Sprintf("%d.%d", c.fork, len(c.hashes)))
	}
}

// reorg replaces the newest n blocks.
func (c *chain) reorg(n int) {
	c.mu.Lock()
	c.hashes = c.hashes[:len(c.hashes)-n]
	c.fork++
	c.mu.Unlock()
	c.grow(n + 1)
}

func (c *chain) state() (head, asked int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.hashes) - 1, c.asked
}

func (c *chain) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var q struct {
		ID     int
		Method string
		Params []string
	}
	body, _ := io.ReadAll(r.Body)
	_ = json.Unmarshal(body, &q)
	c.mu.Lock()
	defer c.mu.Unlock()
	var result any
	if q.Method == "chain.head" {
		result = len(c.hashes) - 1
	} else if n, err := strconv.ParseInt(q.Params[0], 0, 64); err == nil && int(n) < len(c.hashes) {
		c.asked++
		block := map[string]any{"n": n, "hash": c.hashes[n], "parent": ""}
		if n > 0 {
			block["parent"] = c.hashes[n-1]
		}
		result = block
	}
	data, _ := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": q.ID, "result": result})
	_, _ = w.Write(data)
}

// walk is what a reader has received of the chain: every position once, in order,
// and each reorganisation before the positions that replace it.
type walk struct {
	who     string
	t       testing.TB
	version uint64
	hashes  []string
	reorgs  int
}

func (w *walk) take(version uint64, position int, reorganised bool, data []byte) {
	w.t.Helper()
	if version != w.version+1 {
		w.t.Errorf("%s: version %d after %d", w.who, version, w.version)
	}
	w.version = version
	if reorganised {
		var v struct {
			Reorganised struct {
				From, To int
				ID       string
			}
		}
		if err := json.Unmarshal(data, &v); err != nil || v.Reorganised.From != len(w.hashes)-1 ||
			v.Reorganised.To != position || position < 0 || position >= len(w.hashes) {
			w.t.Fatalf("%s: taken back to %d of %d: %s, %v", w.who, position, len(w.hashes), data, err)
		}
		w.hashes = w.hashes[:position+1]
		if w.hashes[position] != v.Reorganised.ID {
			w.t.Errorf("%s: %s is still valid at %d, but %q was published", w.who, v.Reorganised.ID, position,
				w.hashes[position])
		}
		w.reorgs++
		return
	}
	var b struct {
		N    int
		Hash string
	}
	if err := json.Unmarshal(data, &b); err != nil || position != len(w.hashes) || b.N != position {
		w.t.Fatalf("%s: position %d with %s after %d: %v", w.who, position, data, len(w.hashes)-1, err)
	}
	w.hashes = append(w.hashes, b.Hash)
}

// is compares the received blocks with the chain.
func (w *walk) is(c *chain, reorgs int) {
	w.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.reorgs != reorgs || fmt.Sprint(w.hashes) != fmt.Sprint(c.hashes) {
		w.t.Errorf("%s: received %d blocks and %d reorganisations, want %d and %d", w.who, len(w.hashes), w.reorgs,
			len(c.hashes), reorgs)
	}
}

// TestFollow kills the poller while it catches up, and its successor. A client
// and a subscriber on NATS receive every position once, in order.
func TestFollow(t *testing.T) {
	t.Parallel()
	c := newChain(t, 400)
	s := newStack(t, fmt.Sprintf(`
    chain:
      upstreams: [%q]
      polls:
        blocks:
          method: chain.block
          params: ["{{ $position | hex }}"]
          interval: 100ms
          follow: {head: {method: chain.head}, start: 0, maxPerTick: 12, id: .hash, parent: .parent}
`, c.URL))
	s.nats.start()
	direct, reader := make(chan *nats.Msg, 10_000), s.nats.connect("reader")
	if _, err := reader.ChanSubscribe("pollcast.live.chain.blocks", direct); err != nil {
		t.Fatal(err)
	}
	if err := reader.Flush(); err != nil {
		t.Fatal(err)
	}
	first := s.poller()
	first.ready()
	gateway := s.gateway()
	gateway.ready()
	viewer := dial(t, gateway.addr, "/v1/ws?topics=chain.>")

	second := s.poller()
	second.ready()
	pollers := []*service{first, second}
	t.Cleanup(func() {
		for _, p := range pollers {
			if t.Failed() && p.running() {
				_, status, err := get("http://" + p.ops + "/status")
				t.Logf("status of a poller: %v %s", err, status)
			}
		}
	})
	for i := range 3 { // the lease holder, in the middle of its walk; then its successor
		_, asked := c.state()
		eventually(t, "it walks", func() error {
			if _, now := c.state(); now < asked+20+7*i {
				return fmt.Errorf("%d positions asked for, %d before", now, asked)
			}
			return nil
		})
		owner := 0
		eventually(t, "somebody owns the source", func() error {
			for k, p := range pollers {
				if p.owns() {
					owner = k
					return nil
				}
			}
			return fmt.Errorf("nobody does")
		})
		pollers[owner].kill()
		c.grow(5)
		pollers[owner] = s.poller()
	}
	atHead := func(f frame) bool {
		head, _ := c.state()
		return f.Event != nil && f.Event.Position != nil && *f.Event.Position == head
	}
	viewer.await("the head", atHead)
	viewer.await("and nothing is behind", func(f frame) bool { return f.Fresh != nil && !f.Fresh.Stale })
	c.reorg(6)
	viewer.await("what replaces the reorganised blocks", atHead)
	head, _ := c.state()

	byNATS := &walk{who: "subscriber on NATS", t: t}
	for len(byNATS.hashes) <= head || byNATS.reorgs == 0 {
		select {
		case m := <-direct:
			version, err := strconv.ParseUint(m.Header.Get("ce-version"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			position, err := strconv.Atoi(m.Header.Get("ce-position"))
			if err != nil {
				t.Fatal(err)
			}
			byNATS.take(version, position, m.Header.Get("ce-type") == "pollcast.reorganised.v1", m.Data)
		case <-time.After(patience):
			t.Fatalf("the subscriber on NATS has %d of %d blocks", len(byNATS.hashes), head+1)
		}
	}
	byNATS.is(c, 1)

	// The client connected after the walk had begun. It reads on from its
	// snapshot.
	byClient := &walk{who: "client", t: t}
	begun, stale := 0, 0
	for _, f := range viewer.seen(func(f frame) bool { return f.Event != nil }) {
		e := f.Event
		if e.Phase == "snapshot" {
			begun = *e.Position
			byClient.version, byClient.hashes = e.Version-1, append([]string(nil), byNATS.hashes[:begun]...)
		}
		if e.Stale {
			stale++
		}
		byClient.take(e.Version, *e.Position, e.Reorganised, e.Data)
	}
	byClient.is(c, 1)
	if begun > 300 || stale < 50 {
		t.Errorf("the client came at position %d and saw %d events of a walk that was behind: the test did not test much",
			begun, stale)
	}
}
