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
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

func (r *rig) epochOf(gw *Gateway) string {
	gw.server.hub.mu.Lock()
	defer gw.server.hub.mu.Unlock()
	return gw.server.hub.epoch
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
	s.hub.mu.Lock()
	end := s.hub.seq
	s.hub.mu.Unlock()
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
	all, err := s.past.replay(t.Context(), everything, 0, end, 64<<20)
	if err != nil || all.far > 0 {
		t.Fatalf("%d events, far %d, %v", len(all.events), all.far, err)
	}
	depth := uint64(64)
	if n := len(all.after(0, []string{"a.x"})); n != int(depth) {
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
			want := all.after(since, []string{pattern})
			lost := len(all.after(since, []string{"a.x"})) >= int(depth-depth/8) && i%4 < 2
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
				if have.Topic != e.e.Topic || have.Version != e.e.Version || have.Seq != e.seq || have.Phase != wire.Replay {
					t.Errorf("%s since %d: event %d is %s %d (%s), want %s %d", pattern, since, n, have.Topic, have.Version, have.Phase, e.e.Topic, e.e.Version)
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

func (p *blockedPast) replay(_ context.Context, patterns []string, from, to uint64, _ int) (stretch, error) {
	p.most.Store(max(p.most.Load(), p.under.Add(1))) // synctest runs one at a time
	<-p.let
	p.under.Add(-1)
	return stretch{from: from, to: to, bytes: 100}, nil
}

// Those who ask for the same share; few are read at a time; who would wait for
// longer than replayWait is told so; and nothing is kept.
func TestReadbacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := DefaultConfig()
		s := newServer(cfg, "gw", 1, newMetrics(prometheus.NewRegistry()), quiet())
		blocked := &blockedPast{let: make(chan struct{})}
		s.past = blocked
		s.hub.history.restart(100_000)
		var shared, failed atomic.Int64
		ask := func(pattern string, seq uint64) {
			go func() {
				b, err := s.readbacks.get(s, []string{pattern}, seq)
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
				s.readbacks.put(s.budget, b)
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
		s.readbacks.sweep(s.budget, time.Now())
		if n := len(s.readbacks.current) + len(s.readbacks.next); n > 0 || s.readbacks.bytes != 0 || s.budget.passing.Load() != 0 {
			t.Errorf("%d are kept, of %d bytes, %d in the budget", n, s.readbacks.bytes, s.budget.passing.Load())
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
		s.readbacks.sweep(s.budget, time.Now())
		if n := len(s.readbacks.current) + len(s.readbacks.next); n > 0 || s.readbacks.bytes != 0 || s.budget.passing.Load() != 0 {
			t.Errorf("%d are kept, of %d bytes, %d in the budget", n, s.readbacks.bytes, s.budget.passing.Load())
		}
	})
}

// A history that is full moves on while the stream is read back; what is read
// overlaps it by enough.
func TestReachOfAFullHistory(t *testing.T) {
	h := history{max: 80, maxBytes: 1 << 20}
	h.restart(1000)
	seq := uint64(1000)
	add := func(n int) {
		for range n {
			seq++
			h.add(&event.Event{Topic: "a.x"}, seq)
		}
	}
	if add(60); h.reach() != 1000 {
		t.Errorf("reach %d, want where it begins", h.reach())
	}
	add(100)
	at := h.reach()
	if add(9); at < h.from {
		t.Errorf("after 9 events more it begins at %d, past %d", h.from, at)
	}
}

// What a client is owed may be incomplete where another's is not.
func TestStretchLacks(t *testing.T) {
	ev := func(seq uint64, topic string, version uint64, deleted bool) past {
		return past{&event.Event{Topic: topic, Version: version, Deleted: deleted}, seq}
	}
	var flood []past
	for i := range uint64(20) {
		flood = append(flood, ev(100+i, "a.x", 1+i, false))
	}
	for name, tt := range map[string]struct {
		s     stretch
		later []past
		topic string
		from  uint64 // the first position that can be resumed; 0: none
	}{
		"complete":            {s: stretch{to: 200, depth: 64, events: flood}, topic: "a.x", from: 1},
		"trimmed":             {s: stretch{to: 200, trimmed: 90, events: flood}, topic: "a.x", from: 90},
		"too far":             {s: stretch{to: 200, far: 99, events: flood}, topic: "a.x", from: 99},
		"depth":               {s: stretch{to: 200, depth: 16, events: flood}, topic: "a.x", from: 106}, // 13 of 14
		"depth, other topic":  {s: stretch{to: 200, depth: 16, events: flood}, topic: "a.y", from: 1},
		"depth, with later":   {s: stretch{to: 200, depth: 16, events: flood}, later: []past{ev(201, "a.x", 21, false)}, topic: "a.x", from: 107},
		"any depth":           {s: stretch{to: 200, events: flood}, topic: "a.x", from: 1},
		"flood later":         {s: stretch{to: 90, depth: 16}, later: flood, topic: "a.x"},
		"jump":                {s: stretch{to: 200, events: []past{ev(10, "a.x", 1, false), ev(20, "a.x", 3, false), ev(30, "a.x", 4, false)}}, topic: "a.x", from: 20},
		"jump to later":       {s: stretch{to: 200, events: []past{ev(10, "a.x", 1, false)}}, later: []past{ev(201, "a.x", 3, false)}, topic: "a.x"},
		"jump to deletion":    {s: stretch{to: 200, events: []past{ev(10, "a.x", 1, false), ev(20, "a.x", 3, true)}}, topic: "a.x", from: 1},
		"deleted later":       {s: stretch{to: 200, events: []past{ev(10, "a.x", 1, false), ev(20, "a.x", 3, false)}}, later: []past{ev(201, "a.x", 9, true)}, topic: "a.x", from: 1},
		"history has gone on": {s: stretch{to: 200}, later: []past{}, topic: "a.x", from: 1},
	} {
		h := history{max: 100, maxBytes: 1 << 20}
		h.restart(tt.s.to)
		for _, p := range tt.later {
			h.add(p.e, p.seq)
		}
		if !tt.s.check(&h) {
			t.Errorf("%s: cannot be checked", name)
			continue
		}
		first := uint64(0)
		for seq := tt.s.to; seq > 0 && tt.s.lacks(seq, []string{tt.topic}) == ""; seq-- {
			first = seq
		}
		if tt.from == 0 {
			tt.from = first // looked at below
			if tt.s.lacks(tt.s.to-1, []string{tt.topic}) == "" {
				t.Errorf("%s: who has seen all but the last can be resumed", name)
			}
		}
		if first != tt.from {
			t.Errorf("%s: can be resumed from %d on, want %d", name, first, tt.from)
		}
	}
	h := history{max: 1, maxBytes: 1 << 20}
	h.restart(300)
	if s := (stretch{to: 200}); s.check(&h) {
		t.Error("checked without the history in between")
	}
}

// Of more events than are replayed the last ones are read, however they lie.
func TestReadTooMuchBack(t *testing.T) {
	r := newRig(t, nil)
	const n, tail = 2*maxReplay + 2000, maxReplay / 10 * 9
	for i := range n { // as many topics, since the stream keeps but some of each
		poll := "a"
		if i >= n-maxReplay && i%10 > 0 {
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
		r.gw.server.hub.mu.Lock()
		defer r.gw.server.hub.mu.Unlock()
		return r.gw.server.hub.seq == n
	})
	p := r.gw.server.past
	for _, tt := range []struct {
		patterns []string
		most     int
		far      uint64
		events   int
	}{
		{[]string{">"}, 1 << 30, n - maxReplay, maxReplay},
		{[]string{"b.>"}, 1 << 30, 0, tail},
		{[]string{"b.*", "b.>"}, 1 << 30, 0, tail},
		{[]string{"a.>"}, 1 << 30, n - maxReplay - tail, maxReplay},
		{[]string{">"}, 100 * (eventCost + 1), n - 100, 100},
	} {
		got, err := p.replay(t.Context(), tt.patterns, 0, n, tt.most)
		if err != nil {
			t.Fatal(err)
		}
		if got.far != tt.far || len(got.events) != tt.events {
			t.Errorf("%v: %d events, far %d; want %d and %d", tt.patterns, len(got.events), got.far, tt.events, tt.far)
		}
		if !slices.IsSortedFunc(got.events, func(a, b past) int { return int(a.seq) - int(b.seq) }) {
			t.Errorf("%v: out of order", tt.patterns)
		}
	}
}
