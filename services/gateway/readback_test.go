package gateway

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/hub"
	"github.com/pollcast/pollcast/services/gateway/memory"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

func (r *rig) epochOf(gw *Gateway) string {
	return epochOf(gw.server)
}

func total(c prometheus.Counter) float64 {
	var m dto.Metric
	_ = c.Write(&m) // never fails
	return m.GetCounter().GetValue()
}

// A thousand clients that come at once from another gateway to one that has just
// started, each from a place of its own, cost the stream a handful of reads, and
// each is given exactly what it is owed.
func TestManyResumeFromTheStream(t *testing.T) {
	const clients, rounds = 1000, 120
	r := newRig(t, nil)
	topics := []string{"a.x", "a.y", "b.x"}
	for i := range rounds {
		for _, topic := range topics {
			if topic == "a.y" && i%3 > 0 { // fewer than the stream keeps
				continue
			}
			if topic == "b.x" && i%4 > 0 {
				continue
			}
			r.event(topic, fmt.Sprint(i))
		}
	}
	// a.x has lost its beginning: who was away since then cannot be resumed.
	gw, _ := r.start(func(c *Config) { c.AcceptRate = 100_000 })
	s := gw.server
	end := position(s)
	var asked atomic.Int64
	nc, _, _ := r.nats.JetStream()
	sub, err := nc.Subscribe("$JS.API.DIRECT.GET.>", func(*nats.Msg) { asked.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	all, err := s.readbacks.source.replay(t.Context(), []string{">"}, 0, end, 64<<20)
	if err != nil || all.TooFar > 0 {
		t.Fatalf("%d events, far %d, %v", len(all.Events), all.TooFar, err)
	}
	depth := uint64(64)
	if n := len(all.After(0, []string{"a.x"})); n != int(depth) {
		t.Fatalf("the stream holds %d of a.x, want %d", n, depth)
	}
	asked.Store(0)
	epoch := r.epochOf(gw)
	var running sync.WaitGroup
	var together sync.WaitGroup
	together.Add(clients)
	last := make(chan struct{}) // closed when the last event is about to be published
	var resumed, trimmed atomic.Int64
	for i := range clients {
		running.Go(func() {
			pattern := []string{">", "a.>", "a.y", "b.*"}[i%4]
			since := 1 + rand.Uint64N(end-1) // the very first event is gone
			want := all.After(since, []string{pattern})
			lost := len(all.After(since, []string{"a.x"})) >= int(depth-depth/8) && i%4 < 2
			together.Done()
			together.Wait()
			p, sub := resume(t, gw.Addr(), pattern, since, epoch)
			defer p.ws.Close()
			if sub.Resumed == lost || lost && sub.Reason != wire.NotResumedTrimmed {
				t.Errorf("%s since %d: resumed %v %q, want resumed %v", pattern, since, sub.Resumed, sub.Reason, !lost)
				return
			}
			if lost {
				trimmed.Add(1)
				return
			}
			resumed.Add(1)
			for n, e := range want {
				have := p.event()
				if have.Topic != e.Topic || have.Version != e.Version || have.Seq != e.Seq || have.Phase != wire.Replay {
					t.Errorf("%s since %d: event %d is %s %d (%s), want %s %d", pattern, since, n, have.Topic, have.Version, have.Phase, e.Topic, e.Version)
					return
				}
			}
			<-last
			topic := []string{"a.y", "b.x"}[i%4/3]
			if have := p.event(); have.Topic != topic || have.Phase != wire.Live {
				t.Errorf("%s since %d: then %s (%s), want %s, live", pattern, since, have.Topic, have.Phase, topic)
			}
		})
	}
	eventually(t, "all have their answer", func() bool { return t.Failed() || resumed.Load()+trimmed.Load() == clients })
	reads, requests := total(s.metrics.readbacks), asked.Load()
	for _, topic := range []string{"a.y", "b.x"} {
		r.event(topic, `"last"`)
	}
	close(last)
	running.Wait()
	t.Logf("%d resumed, %d trimmed: %v reads, %d requests", resumed.Load(), trimmed.Load(), reads, requests)
	if reads < 1 || reads > 5 {
		t.Errorf("the stream was read back %v times, want a handful", reads)
	}
	if requests > 20 {
		t.Errorf("%d requests to the stream, want a handful", requests)
	}
	if resumed.Load() == 0 || trimmed.Load() == 0 {
		t.Errorf("%d resumed and %d trimmed: this tests too little", resumed.Load(), trimmed.Load())
	}
	eventually(t, "what was read is dropped", func() bool {
		s.readbacks.mu.Lock()
		defer s.readbacks.mu.Unlock()
		return len(s.readbacks.current) == 0 && len(s.readbacks.next) == 0 && s.readbacks.bytes == 0
	})
}

// A blockedPast reads when it is let.
type blockedPast struct {
	under, most atomic.Int64
	let         chan struct{}
}

func (p *blockedPast) replay(_ context.Context, patterns []string, from, to uint64, _ int) (hub.Stretch, error) {
	p.most.Store(max(p.most.Load(), p.under.Add(1))) // synctest runs one at a time
	<-p.let
	p.under.Add(-1)
	return hub.Stretch{From: from, To: to, Bytes: 100}, nil
}

// Those who ask for the same share; few are read at a time; who would wait for
// longer than replayWait is told so; and nothing is kept.
func TestReadbacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := DefaultConfig()
		s := newServer(cfg, "gw", 1, newMetrics(prometheus.NewRegistry()), quiet())
		blocked := &blockedPast{let: make(chan struct{})}
		s.readbacks.source = blocked
		s.hub.Reset("E")
		s.hub.Snapshot(nil, 100_000)
		var shared, failed atomic.Int64
		ask := func(pattern string, seq uint64) {
			go func() {
				b, err := s.readbacks.get([]string{pattern}, seq)
				if err != nil {
					if !errors.Is(err, errReadback) {
						t.Error(err)
					}
					failed.Add(1)
					return
				}
				if b.from > seq || b.to != 100_000 {
					t.Errorf("%d..%d for %d", b.from, b.to, seq)
				}
				shared.Add(1)
				s.readbacks.put(b)
			}()
		}
		for i := range uint64(50) {
			ask("a.x", 5000+i)
		}
		synctest.Wait()
		for i := range uint64(50) {
			ask("a.x", 3000+i) // further behind than what is being read: the next one
		}
		synctest.Wait()
		if n := blocked.under.Load(); n != 1 {
			t.Errorf("%d read at a time for the same patterns, want 1", n)
		}
		for i := range 20 {
			ask(fmt.Sprintf("b.k%d", i), 5000)
		}
		synctest.Wait()
		if n := blocked.most.Load(); n != maxReadbacks {
			t.Errorf("%d read at a time, want %d", n, maxReadbacks)
		}
		for range 22 {
			blocked.let <- struct{}{}
			synctest.Wait()
		}
		if n := shared.Load(); n != 120 || failed.Load() > 0 {
			t.Errorf("%d have it and %d have not, want 120 and none", n, failed.Load())
		}
		if n := total(s.metrics.readbacks); n != 22 {
			t.Errorf("read %v times, want 22", n)
		}
		ask("a.x", 3000) // it is kept for a while
		synctest.Wait()
		if shared.Load() != 121 || total(s.metrics.readbacks) != 22 {
			t.Errorf("what was just read is read again")
		}
		time.Sleep(2 * readbackKept)
		s.readbacks.sweep(time.Now())
		if n := len(s.readbacks.current) + len(s.readbacks.next); n > 0 || s.readbacks.bytes != 0 || s.budget.Passing() != 0 {
			t.Errorf("%d are kept, of %d bytes, %d in the budget", n, s.readbacks.bytes, s.budget.Passing())
		}
		shared.Store(0)
		for i := range 20 {
			ask(fmt.Sprintf("b.k%d", i), 5000)
		}
		time.Sleep(replayWait + time.Second)
		synctest.Wait()
		if n := failed.Load(); n != 20-maxReadbacks && n != 20 {
			t.Errorf("after %v %d were told that it took too long, want %d", replayWait, n, 20-maxReadbacks)
		}
		close(blocked.let)
		synctest.Wait()
		time.Sleep(2 * readbackKept)
		s.readbacks.sweep(time.Now())
		if n := len(s.readbacks.current) + len(s.readbacks.next); n > 0 || s.readbacks.bytes != 0 || s.budget.Passing() != 0 {
			t.Errorf("%d are kept, of %d bytes, %d in the budget", n, s.readbacks.bytes, s.budget.Passing())
		}
	})
}

// Of more events than are replayed the last ones are read, however they lie.
func TestReadTooMuchBack(t *testing.T) {
	r := newRig(t, nil)
	const n, tail = 2*hub.MaxReplay + 2000, hub.MaxReplay / 10 * 9
	for i := range n { // as many topics, since the stream keeps but some of each
		poll := "a"
		if i >= n-hub.MaxReplay && i%10 > 0 {
			poll = "b"
		}
		now := time.Now().UTC()
		m := r.names.EventMsg(&event.Event{Topic: fmt.Sprintf("%s.k%d", poll, i), Poll: poll, Key: fmt.Sprintf("k%d", i), Version: 1, Data: []byte("1"), ChangedAt: now, AsOf: now}, now)
		if _, err := r.js.PublishMsgAsync(m); err != nil {
			t.Fatal(err)
		}
		if i%2000 > 0 {
			continue
		}
		select {
		case <-r.js.PublishAsyncComplete():
		case <-time.After(patience):
			t.Fatal("not published")
		}
	}
	eventually(t, "the gateway has it all", func() bool {
		return position(r.gw.server) == n
	})
	p := r.gw.server.readbacks.source
	for _, tt := range []struct {
		patterns []string
		most     int
		far      uint64
		events   int
	}{
		{[]string{">"}, 1 << 30, n - hub.MaxReplay, hub.MaxReplay},
		{[]string{"b.>"}, 1 << 30, 0, tail},
		{[]string{"b.*", "b.>"}, 1 << 30, 0, tail},
		{[]string{"a.>"}, 1 << 30, n - hub.MaxReplay - tail, hub.MaxReplay},
		{[]string{">"}, 100 * (memory.EventCost + 1), n - 100, 100},
	} {
		got, err := p.replay(t.Context(), tt.patterns, 0, n, tt.most)
		if err != nil {
			t.Fatal(err)
		}
		if got.TooFar != tt.far || len(got.Events) != tt.events {
			t.Errorf("%v: %d events, far %d; want %d and %d", tt.patterns, len(got.Events), got.TooFar, tt.events, tt.far)
		}
		if !slices.IsSortedFunc(got.Events, func(a, b hub.Event) int { return int(a.Seq) - int(b.Seq) }) {
			t.Errorf("%v: out of order", tt.patterns)
		}
	}
}
