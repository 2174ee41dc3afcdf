package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
)

const patience = 20 * time.Second

func connect(t *testing.T, o Options) *Client {
	t.Helper()
	if o.backoff == nil {
		o.backoff = func(int) time.Duration { return 20 * time.Millisecond }
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func subscribe(t *testing.T, c *Client, patterns string, o SubscribeOptions) *Subscription {
	t.Helper()
	s, err := c.Subscribe(t.Context(), strings.Fields(patterns), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// next returns the next update of a type and drops the updates of other types
// before it.
func next[T Update](t *testing.T, s *Subscription) T {
	t.Helper()
	return nextThat(t, s, func(T) bool { return true })
}

func nextThat[T Update](t *testing.T, s *Subscription, good func(T) bool) T {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case u, open := <-s.Updates():
			if !open {
				t.Fatalf("the subscription ended: %v", s.Err())
			}
			if w, is := u.(T); is && good(w) {
				return w
			}
		case <-timeout:
			var w T
			t.Fatalf("no such %T came", w)
		}
	}
}

// nothing checks that no such update comes before the marker event.
func nothing[T Update](t *testing.T, s *Subscription, st *stream, marker string) {
	t.Helper()
	want := st.publish(marker, "marker").Seq
	for {
		switch u := (<-s.Updates()).(type) {
		case T:
			t.Errorf("unexpected %T: %+v", u, u)
		case *Event:
			if u.Seq == want {
				return
			}
		case nil:
			t.Fatalf("the subscription ended: %v", s.Err())
		}
	}
}

// eventually waits for a state that no update reports.
func eventually(t *testing.T, what string, good func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !good(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: did not happen", what)
		}
	}
}

func TestSnapshotThenLive(t *testing.T) {
	st := newStream()
	st.publish("host.cpu", 1)
	st.publish("host.cpu", 2)
	st.publish("eth.head", 7)
	st.fresh(ok("host.cpu"))
	g := startGateway(t, st)
	c := connect(t, Options{URL: g.url()})
	s := subscribe(t, c, "host.>", SubscribeOptions{})
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}

	ev := next[*Event](t, s)
	if ev.Topic != "host.cpu" || string(ev.Data) != "2" || ev.Phase != wire.Snapshot || ev.Version != 2 ||
		ev.Epoch != "E1" {
		t.Errorf("have %+v, want the last value of host.cpu", ev)
	}
	if f := next[*Freshness](t, s); f.Poll != "host.cpu" || f.Stale || !f.Changed || f.Local || f.Age < 0 {
		t.Errorf("have %+v, want a first, good record", f)
	}
	st.publish("eth.head", 8)
	st.publish("host.cpu", 3)
	if ev := next[*Event](t, s); string(ev.Data) != "3" || ev.Phase != wire.Live {
		t.Errorf("have %+v, want the live value", ev)
	}
	st.fresh(ok("host.cpu"))
	if f := next[*Freshness](t, s); f.Changed {
		t.Errorf("have %+v, want a renewal", f)
	}
	bad := ok("host.cpu")
	bad.Stale, bad.Reason, bad.Detail, bad.Breaker = true, event.BreakerOpen, "HTTP 503", event.Open
	st.fresh(bad)
	if f := next[*Freshness](t, s); !f.Changed || !f.Stale || f.Reason != event.BreakerOpen {
		t.Errorf("have %+v, want stale", f)
	}
	v, found := c.Value("host.cpu")
	if !found || string(v.Data) != "3" || !v.Stale || v.Reason != event.BreakerOpen || v.Detail != "HTTP 503" ||
		v.Breaker != event.Open {
		t.Errorf("have %+v, want the last good value, stale", v)
	}
	if _, found := c.Value("eth.head"); found {
		t.Error("have a value that was not subscribed to")
	}
	g.send(&wire.ServerFrame{Breaker: &event.Breaker{Source: "eth", From: event.Closed, To: event.Open}})
	g.send(&wire.ServerFrame{Breaker: &event.Breaker{Source: "host", From: event.Closed, To: event.Open, Failures: 5}})
	if b := next[*Breaker](t, s); b.Source != "host" || b.To != event.Open || b.Failures != 5 {
		t.Errorf("have %+v, want host's transition", b)
	}
}

// Subscriptions that overlap get every event once each. The end of one does not
// disturb the other.
func TestOverlap(t *testing.T) {
	st := newStream()
	st.publish("host.cpu", 1)
	st.publish("host.mem", 1)
	st.fresh(ok("host.cpu"))
	g := startGateway(t, st)
	c := connect(t, Options{URL: g.url()})
	a := subscribe(t, c, "host.>", SubscribeOptions{})
	next[*Freshness](t, a)
	b := subscribe(t, c, "host.cpu host.>", SubscribeOptions{})
	if f := next[*Freshness](t, b); f.Poll != "host.cpu" || f.Stale || !f.Changed {
		t.Errorf("have %+v, want host.cpu's", f)
	}
	for _, want := range []string{"host.cpu", "host.mem"} {
		if ev := next[*Event](t, b); ev.Topic != want || ev.Phase != wire.Snapshot {
			t.Errorf("have %+v, want %s", ev, want)
		}
	}
	if err := b.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		st.publish("host.cpu", 2+i)
		for _, s := range []*Subscription{a, b} {
			if ev := next[*Event](t, s); ev.Version != uint64(2+i) {
				t.Errorf("have version %d, want %d", ev.Version, 2+i)
			}
		}
	}
	a.Close()
	for range a.Updates() {
	}
	if a.Err() != nil {
		t.Errorf("have %v after Close, want nil", a.Err())
	}
	st.publish("host.mem", 2)
	if ev := next[*Event](t, b); ev.Topic != "host.mem" || ev.Version != 2 {
		t.Errorf("have %+v, want host.mem", ev)
	}
	b.Close()
	eventually(t, "forgetting what nobody wants", func() bool { return len(c.Values()) == 0 })
	eventually(t, "unsubscribing", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		f := g.frames[len(g.frames)-1].Unsubscribe
		return f != nil && reflect.DeepEqual(f.Topics, []string{"host.cpu", "host.>"})
	})
}

// With DeliverLatest skipped versions are no gap.
func TestLatest(t *testing.T) {
	st := newStream()
	st.publish("host.cpu", 1)
	g := startGateway(t, st)
	c := connect(t, Options{URL: g.url()})
	s := subscribe(t, c, "host.>", SubscribeOptions{MaxHz: 1})
	next[*Event](t, s)
	if f := g.subscribes()[0]; f.Delivery != wire.DeliverLatest || f.MaxHz != 1 {
		t.Errorf("have %+v, want latest at 1 Hz", f)
	}
	st.mu.Lock()
	st.versions["host.cpu"] = 10
	st.mu.Unlock()
	nothing[*Gap](t, s, st, "host.cpu")
}

// A deleted key is delivered and forgotten.
func TestDeletion(t *testing.T) {
	st := newStream()
	st.publishKey("host.disk", "a", 1)
	g := startGateway(t, st)
	c := connect(t, Options{URL: g.url()})
	s := subscribe(t, c, "host.>", SubscribeOptions{})
	next[*Event](t, s)
	st.publishKey("host.disk", "a", nil)
	if ev := next[*Event](t, s); !ev.Deleted || ev.Topic != "host.disk.a" {
		t.Errorf("have %+v, want a deletion", ev)
	}
	if _, found := c.Value("host.disk.a"); found {
		t.Error("have a value of a deleted key")
	}
}

func TestSubscriptionContext(t *testing.T) {
	st := newStream()
	g := startGateway(t, st)
	c := connect(t, Options{URL: g.url()})
	ctx, cancel := context.WithCancel(t.Context())
	s, err := c.Subscribe(ctx, []string{"host.>"}, SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	cancel()
	for range s.Updates() {
	}
	if s.Err() != nil {
		t.Errorf("have %v, want nil", s.Err())
	}
	if err := s.Ready(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("have %v, want %v", err, ErrClosed)
	}
}

// Close ends a client in every state, with readers that do not read.
func TestClose(t *testing.T) {
	st := newStream()
	for i := range 100 {
		st.publish(fmt.Sprintf("host.t%d", i), i)
	}
	g := startGateway(t, st)
	// mute accepts connections and sends nothing.
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	for _, tt := range []struct {
		name, url string
		before    func(*Client)
	}{
		{"at once", g.url(), func(*Client) {}},
		{"with a full channel", g.url(), func(c *Client) {
			s := subscribe(t, c, "host.>", SubscribeOptions{Buffer: 1})
			if err := s.Ready(t.Context()); err != nil {
				t.Error(err)
			}
			eventually(t, "filling the channel", func() bool { return len(s.updates) == 1 })
		}},
		{"during the handshake", "ws://" + mute.Addr().String(), func(c *Client) {
			conn, err := mute.Accept()
			if err != nil {
				t.Error(err)
			}
			t.Cleanup(func() { conn.Close() })
		}},
		{"between two attempts", "ws://127.0.0.1:1", func(c *Client) {
			next[*Connection](t, subscribe(t, c, "host.>", SubscribeOptions{}))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := New(Options{URL: tt.url})
			if err != nil {
				t.Fatal(err)
			}
			tt.before(c)
			start := time.Now()
			c.Close()
			c.Close()
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("it took %v", d)
			}
			if c.Err() != nil {
				t.Errorf("have %v, want nil", c.Err())
			}
			if _, err := c.Subscribe(t.Context(), []string{"a.b"}, SubscribeOptions{}); !errors.Is(err, ErrClosed) {
				t.Errorf("have %v, want %v", err, ErrClosed)
			}
		})
	}
}

// The client waits for a gateway that does not run yet, and reports that once.
func TestStartBeforeTheGateway(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	c := connect(t, Options{URL: "http://" + addr})
	s := subscribe(t, c, "host.>", SubscribeOptions{})
	if u := next[*Connection](t, s); u.Connected || u.Err == nil {
		t.Errorf("have %+v, want the failure", u)
	}
	st := newStream()
	st.publish("host.cpu", 1)
	startGatewayAt(t, st, addr)
	if u := next[*Connection](t, s); !u.Connected || u.ID != "1" || u.Gateway == "" {
		t.Errorf("have %+v, want the connection", u)
	}
	next[*Event](t, s)
}
