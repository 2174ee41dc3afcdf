package gateway

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/hub"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// A client with delivery "latest" that does not read stays connected, however
// much is published, and then gets the newest of every topic: in order, no
// version twice, the freshness after the values.
func TestLatestConflates(t *testing.T)           { testConflation(t, false) }
func TestLatestConflatesCompressed(t *testing.T) { testConflation(t, true) }

func testConflation(t *testing.T, compressed bool) {
	// The client does not read, so it answers no ping. Until its socket is full that
	// closes it, and on a busy machine it takes long to fill a socket.
	r := newRig(t, func(c *Config) { c.MaxLag, c.Compression, c.PingInterval = 64<<10, compressed, time.Hour })
	ws := dialSmall(t, r.gw.Addr(), "/v1/ws")
	p := &peer{t, ws}
	p.send(`{"id":1,"subscribe":{"topics":["big.>"],"delivery":"latest"}}`)
	p.until("subscribed", func(f wire.ServerFrame) bool { return f.Subscribed != nil })
	topics := []string{"big.a", "big.b", "big.c"}
	noise := make([]byte, 8<<10)
	rand.NewChaCha8([32]byte{}).Read(noise)
	body := fmt.Sprintf(`"%x"`, noise)
	blocked := func() bool { return r.only().Blocked() }
	events := 0
	for ; !blocked() || events < 600; events++ {
		r.event(topics[events%3], body)
	}
	for range 300 { // 4.8 MB more, far beyond maxLag
		r.event(topics[events%3], body)
		events++
	}
	for _, topic := range topics {
		r.event(topic, `"last"`)
		events++
	}
	asOf := time.Now().UTC().Truncate(time.Millisecond)
	for _, topic := range topics {
		r.fresh(event.Freshness{Poll: topic, AsOf: asOf})
	}
	eventually(t, "the gateway has read it all", func() bool { return position(r.gw.server) == uint64(events+3) })

	versions, got := map[string]uint64{}, 0
	last := map[string]string{}
	confirmed := map[string]bool{}
	p.until("the newest of all", func(f wire.ServerFrame) bool {
		if e := f.Event; e != nil {
			if e.Version <= versions[e.Topic] {
				t.Fatalf("%s version %d after %d", e.Topic, e.Version, versions[e.Topic])
			}
			versions[e.Topic], last[e.Topic] = e.Version, string(e.Data)
			got++
		}
		if f.Fresh != nil && f.Fresh.AsOf.Equal(asOf) {
			if last[f.Fresh.Poll] != `"last"` {
				t.Fatalf("%s was confirmed before its last value came", f.Fresh.Poll)
			}
			confirmed[f.Fresh.Poll] = true
		}
		return len(confirmed) == 3
	})
	for _, topic := range topics {
		if versions[topic] != r.versions[topic] {
			t.Errorf("%s: last version %d, want %d", topic, versions[topic], r.versions[topic])
		}
	}
	if got >= events {
		t.Errorf("%d of %d events: nothing was conflated", got, events)
	}
	if n := testutil.ToFloat64(r.gw.server.metrics.compressed); n > 0 != compressed {
		t.Errorf("%v frames compressed", n)
	}
	// It is back in its feed: every event comes again.
	eventually(t, "it has caught up", func() bool { return !blocked() })
	for range 5 {
		r.event("big.a", `1`)
	}
	for range 5 {
		f := p.until("an event", func(f wire.ServerFrame) bool { return f.Event != nil })
		if f.Event.Version != versions["big.a"]+1 {
			t.Fatalf("version %d after %d", f.Event.Version, versions["big.a"])
		}
		versions["big.a"]++
	}
}

// publish gives the hub records as the stream would, with the next sequence number.
func publish(s *server, msgs ...bus.Message) {
	for _, m := range msgs {
		m.Seq = position(s) + 1
		m.Stored = time.Now()
		(&intake{Hub: s.hub}).Append([]bus.Message{m}, m.Seq, false)
	}
}

func value(topic string, version uint64) bus.Message {
	now := time.Now().UTC()
	return bus.Message{Event: &event.Event{
		Topic: topic, Poll: topic, Data: json.RawMessage(fmt.Sprint(version)), Version: version, ChangedAt: now, AsOf: now,
	}}
}

func confirm(poll string) bus.Message {
	return bus.Message{Fresh: &event.Freshness{Poll: poll, AsOf: time.Now().UTC(), Breaker: event.Closed, MaxAgeMs: 60_000}}
}

// maxHz bounds the events per topic; the last one always comes, and no
// freshness overtakes the value it confirms.
func TestMaxHz(t *testing.T) {
	onVirtualClock(t, func(t *testing.T, s *server, p *pipes) {
		ws := p.dial(t, "/v1/ws")
		defer ws.Close()
		if err := ws.WriteMessage(websocket.TextMessage, []byte(`{"id":1,"subscribe":{"topics":["a.>"],"maxHz":2}}`)); err != nil {
			t.Fatal(err)
		}
		type seen struct {
			at    time.Time
			frame wire.ServerFrame
		}
		frames := make(chan seen, 10_000)
		go func() {
			defer close(frames)
			for {
				_, b, err := ws.ReadMessage()
				if err != nil {
					return
				}
				var f wire.ServerFrame
				if err := json.Unmarshal(b, &f); err != nil {
					t.Error(err)
					return
				}
				frames <- seen{time.Now(), f}
			}
		}()
		synctest.Wait()
		for v := uint64(1); v <= 100; v++ { // 10 s at 10 Hz, on two topics
			publish(s, value("a.x", v), confirm("a.x"), value("a.y", v), confirm("a.y"))
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		ws.Close()
		count, last := map[string]int{}, map[string]*wire.Event{}
		lastAt := map[string]time.Time{}
		for f := range frames {
			if e := f.frame.Event; e != nil {
				if at, ok := lastAt[e.Topic]; ok && f.at.Sub(at) < 500*time.Millisecond {
					t.Errorf("%s: events %v apart, want 500ms", e.Topic, f.at.Sub(at))
				}
				count[e.Topic]++
				last[e.Topic], lastAt[e.Topic] = e, f.at
			}
			if fr := f.frame.Fresh; fr != nil && !fr.Stale && last[fr.Poll] != nil && fr.AsOf.Sub(last[fr.Poll].ChangedAt) >= 100*time.Millisecond && last[fr.Poll].Version < 100 {
				t.Errorf("%s: version %d, changed at %v, was confirmed as of %v, when it was another", fr.Poll, last[fr.Poll].Version, last[fr.Poll].ChangedAt, fr.AsOf)
			}
		}
		for _, topic := range []string{"a.x", "a.y"} {
			if last[topic] == nil || last[topic].Version != 100 || count[topic] < 18 || count[topic] > 22 {
				t.Errorf("%s: %d events, the last %+v; want about 20, the last of version 100", topic, count[topic], last[topic])
			}
		}
	})
}

// Going stale waits for no tick: the value goes before it at once.
func TestMaxHzStale(t *testing.T) {
	onVirtualClock(t, func(t *testing.T, s *server, p *pipes) {
		ws := p.dial(t, "/v1/ws")
		defer ws.Close()
		if err := ws.WriteMessage(websocket.TextMessage, []byte(`{"subscribe":{"topics":["a.x"],"maxHz":0.1}}`)); err != nil {
			t.Fatal(err)
		}
		next := func() wire.ServerFrame {
			t.Helper()
			_, b, err := ws.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			var f wire.ServerFrame
			if err := json.Unmarshal(b, &f); err != nil {
				t.Fatal(err)
			}
			return f
		}
		next() // welcome
		next() // subscribed
		start := time.Now()
		publish(s, value("a.x", 1), confirm("a.x"))
		if f := next(); f.Event == nil || f.Event.Version != 1 {
			t.Fatalf("have %+v, want version 1", f)
		}
		if f := next(); f.Fresh == nil || f.Fresh.Stale {
			t.Fatalf("have %+v, want fresh", f)
		}
		stale := confirm("a.x")
		stale.Fresh.Stale, stale.Fresh.Reason = true, event.Timeout
		publish(s, value("a.x", 2), stale)
		if f := next(); f.Event == nil || f.Event.Version != 2 {
			t.Fatalf("have %+v, want version 2", f)
		}
		if f := next(); f.Fresh == nil || f.Fresh.Reason != event.Timeout {
			t.Fatalf("have %+v, want stale", f)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

// position is how far a gateway has read the stream.
func position(s *server) (seq uint64) {
	s.hub.With(func(v *hub.View) { seq = v.Seq() })
	return seq
}

// epochOf is the epoch of the stream that a gateway reads.
func epochOf(s *server) string {
	epoch, _, _ := s.stream()
	return epoch
}
