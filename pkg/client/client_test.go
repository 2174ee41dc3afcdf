package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
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

// next returns the next update of a type and drops those of other types before
// it.
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

// nothing checks that what comes until the marker event holds no such update.
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

// eventually waits for something that has no update.
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
	if ev.Topic != "host.cpu" || string(ev.Data) != "2" || ev.Phase != wire.Snapshot || ev.Version != 2 || ev.Epoch != "E1" {
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
	if !found || string(v.Data) != "3" || !v.Stale || v.Reason != event.BreakerOpen || v.Detail != "HTTP 503" || v.Breaker != event.Open {
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

// The gateway is killed and started again at the same address; what was
// published meanwhile arrives once and in order, and nothing looked live.
func TestResumeAfterKill(t *testing.T) {
	st := newStream()
	st.publish("host.cpu", 1)
	st.publish("host.mem", 1)
	st.fresh(ok("host.cpu"))
	st.fresh(ok("host.mem"))
	g := startGateway(t, st)
	c := connect(t, Options{URL: g.url()})
	s := subscribe(t, c, "host.>", SubscribeOptions{})
	nextThat(t, s, func(f *Freshness) bool { return f.Poll == "host.mem" })
	st.publish("host.cpu", 2)
	nextThat(t, s, func(e *Event) bool { return e.Version == 2 })

	g.kill()
	if u := next[*Connection](t, s); u.Connected || u.Err == nil || u.RetryIn <= 0 {
		t.Errorf("have %+v, want the loss", u)
	}
	for range 2 {
		if f := next[*Freshness](t, s); !f.Stale || f.Reason != event.ConnectionLost || !f.Local || !f.Changed {
			t.Errorf("have %+v, want connection_lost", f)
		}
	}
	for _, v := range c.Values() {
		if !v.Stale || v.Reason != event.ConnectionLost {
			t.Errorf("have %+v, want connection_lost", v)
		}
	}
	for i := range 3 {
		st.publish("host.cpu", 3+i)
	}

	startGatewayAt(t, st, g.addr)
	if u := next[*Connection](t, s); !u.Connected || u.Moved {
		t.Errorf("have %+v, want the new connection", u)
	}
	if r := next[*Resumed](t, s); !r.Complete {
		t.Errorf("have %+v, want a complete resume", r)
	}
	for i := range 3 {
		if ev := next[*Event](t, s); ev.Version != uint64(3+i) || ev.Phase != wire.Replay {
			t.Errorf("have %+v, want version %d", ev, 3+i)
		}
	}
	for range 2 {
		if f := next[*Freshness](t, s); f.Stale || !f.Changed {
			t.Errorf("have %+v, want fresh again", f)
		}
	}
	for _, v := range c.Values() {
		if v.Stale {
			t.Errorf("have %+v, want fresh", v)
		}
	}
	nothing[*Gap](t, s, st, "host.cpu")
}

// A resume that cannot be complete says so: with the reason, with the topics of
// which events are missing, and with the topics that are gone.
func TestIncompleteResume(t *testing.T) {
	st := newStream()
	st.publishKey("host.disk", "a", 1)
	st.publishKey("host.disk", "b", 1)
	st.publishKey("host.disk", "c", 1)
	st.fresh(ok("host.disk"))
	g := startGateway(t, st)
	c := connect(t, Options{URL: g.url()})
	s := subscribe(t, c, "host.>", SubscribeOptions{})
	next[*Freshness](t, s)
	// The first live event shows that the subscription has a position.
	st.publishKey("host.disk", "a", 2)
	nextThat(t, s, func(e *Event) bool { return e.Version == 2 })

	g.kill()
	next[*Connection](t, s)
	for i := range 4 {
		st.publishKey("host.disk", "a", 3+i)
	}
	st.publishKey("host.disk", "b", nil)
	st.mu.Lock()
	st.trimmed = st.seq
	st.mu.Unlock()
	startGatewayAt(t, st, g.addr)

	if r := next[*Resumed](t, s); r.Complete || r.Reason != wire.NotResumedTrimmed {
		t.Errorf("have %+v, want trimmed", r)
	}
	if gap := next[*Gap](t, s); gap.Topic != "host.disk.a" || gap.Missed() != 3 || gap.After != 2 || gap.Before != 6 {
		t.Errorf("have %+v, want 3 missed of host.disk.a", gap)
	}
	if ev := next[*Event](t, s); ev.Topic != "host.disk.a" || ev.Version != 6 || ev.Phase != wire.Snapshot {
		t.Errorf("have %+v, want the current value", ev)
	}
	if ev := next[*Event](t, s); ev.Topic != "host.disk.b" || !ev.Deleted || ev.Data != nil {
		t.Errorf("have %+v, want host.disk.b gone, and host.disk.c not repeated", ev)
	}
	if f := next[*Freshness](t, s); f.Stale || !f.Changed {
		t.Errorf("have %+v, want fresh again", f)
	}
	if have, want := fmt.Sprint(topicsOf(c)), "[host.disk.a host.disk.c]"; have != want {
		t.Errorf("have values of %s, want %s", have, want)
	}
	if v, _ := c.Value("host.disk.c"); v.Stale {
		t.Errorf("have %+v, want fresh", v)
	}
}

func topicsOf(c *Client) []string {
	var out []string
	for _, v := range c.Values() {
		out = append(out, v.Topic)
	}
	return out
}

// Another incarnation of the stream begins anew: lower sequence numbers and
// versions are no duplicates.
func TestEpoch(t *testing.T) {
	st := newStream()
	for i := range 5 {
		st.publish("host.cpu", i)
	}
	g := startGateway(t, st)
	c := connect(t, Options{URL: g.url()})
	s := subscribe(t, c, "host.>", SubscribeOptions{})
	next[*Event](t, s)
	st.publish("host.cpu", 5)
	next[*Event](t, s)

	g.kill()
	st.reset("E2")
	st.publish("host.cpu", 100)
	startGatewayAt(t, st, g.addr)
	if r := next[*Resumed](t, s); r.Complete || r.Reason != wire.NotResumedEpoch {
		t.Errorf("have %+v, want another epoch", r)
	}
	if ev := next[*Event](t, s); string(ev.Data) != "100" || ev.Epoch != "E2" || ev.Seq != 1 {
		t.Errorf("have %+v, want the new stream's value", ev)
	}
	if v, _ := c.Value("host.cpu"); string(v.Data) != "100" {
		t.Errorf("have %s, want 100", v.Data)
	}
	st.publish("host.cpu", 101)
	if ev := next[*Event](t, s); string(ev.Data) != "101" {
		t.Errorf("have %s, want 101", ev.Data)
	}
}

// When the gateway announces its end the client connects elsewhere first:
// nothing is lost, nothing was stale.
func TestGoAway(t *testing.T) {
	st := newStream()
	st.publish("host.cpu", 1)
	st.fresh(ok("host.cpu"))
	old := startGateway(t, st)
	target := &atomic.Value{}
	target.Store(old.addr)
	c := connect(t, Options{URL: old.url(), DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, target.Load().(string))
	}})
	s := subscribe(t, c, "host.>", SubscribeOptions{Buffer: 10_000})
	next[*Freshness](t, s)

	replacement := startGateway(t, st)
	target.Store(replacement.addr)
	old.send(&wire.ServerFrame{GoAway: &wire.GoAway{Reason: "draining", ReconnectAfterMs: 50}})
	sent := 1
	for replacement.connections() == 0 && sent < 5000 {
		sent++
		st.publish("host.cpu", sent)
		time.Sleep(2 * time.Millisecond)
	}
	eventually(t, "leaving the old gateway", func() bool { return old.connections() == 0 })
	sent++
	st.publish("host.cpu", sent)

	moved := false
	for have := 1; have < sent; {
		switch u := (<-s.Updates()).(type) {
		case *Event:
			if have++; u.Version != uint64(have) {
				t.Fatalf("have version %d, want %d", u.Version, have)
			}
		case *Connection:
			if !u.Connected || !u.Moved {
				t.Errorf("have %+v, want a move", u)
			}
			moved = true
		case *Freshness:
			if u.Stale {
				t.Errorf("have %+v, want no staleness", u)
			}
		case *Resumed:
			if !u.Complete {
				t.Errorf("have %+v, want a complete resume", u)
			}
		case nil:
			t.Fatal(s.Err())
		}
	}
	if !moved {
		t.Error("no update said that the client moved")
	}
	if v, _ := c.Value("host.cpu"); v.Stale {
		t.Errorf("have %+v, want fresh", v)
	}
}

// A reader that does not read stops the connection, the gateway gives up on it,
// and the client goes on without a gap when the reader is back.
func TestSlowReader(t *testing.T) {
	st := newStream()
	st.publish("host.cpu", 0)
	g := startGateway(t, st)
	c := connect(t, Options{URL: g.url()})
	s := subscribe(t, c, "host.>", SubscribeOptions{Buffer: 1})
	next[*Event](t, s)

	const n = 200
	for i := range n {
		st.publish("host.cpu", i)
	}
	g.hangUp(wire.CloseSlowConsumer)
	g.drop() // no answer can come from a client that does not read
	for i := range n {
		st.publish("host.cpu", n+i)
	}
	lost := false
	for want := uint64(2); want <= 2*n+1; {
		switch u := (<-s.Updates()).(type) {
		case *Event:
			if u.Version != want {
				t.Fatalf("have version %d, want %d", u.Version, want)
			}
			want++
		case *Connection:
			lost = lost || !u.Connected
		case *Gap:
			t.Errorf("have %+v, want none", u)
		case nil:
			t.Fatal(s.Err())
		}
	}
	if !lost {
		t.Error("the connection was not lost")
	}
}

func TestCloseCodes(t *testing.T) {
	for _, tt := range []struct {
		code wire.CloseCode
		back bool
	}{
		{wire.CloseSlowConsumer, true},
		{wire.CloseTokenExpired, true},
		{wire.CloseRestart, true},
		{wire.CloseUnauthorized, false},
		{wire.CloseForbidden, false},
		{wire.CloseTooManyConnections, false},
		{wire.CloseProtocolError, false},
		{4999, false},
	} {
		t.Run(fmt.Sprint(int(tt.code)), func(t *testing.T) {
			t.Parallel()
			st := newStream()
			st.publish("host.cpu", 1)
			g := startGateway(t, st)
			c := connect(t, Options{URL: g.url()})
			s := subscribe(t, c, "host.>", SubscribeOptions{})
			next[*Event](t, s)
			g.hangUp(tt.code)
			u := next[*Connection](t, s)
			for u.Connected {
				u = next[*Connection](t, s)
			}
			ce, is := errors.AsType[*CloseError](u.Err)
			if !is || ce.Code != tt.code {
				t.Errorf("have %v, want close code %d", u.Err, tt.code)
			}
			if tt.back {
				if u := next[*Connection](t, s); !u.Connected {
					t.Errorf("have %+v, want another connection", u)
				}
				return
			}
			for range s.Updates() {
			}
			for _, err := range []error{s.Err(), c.Err()} {
				if ce, is := errors.AsType[*CloseError](err); !is || ce.Code != tt.code {
					t.Errorf("have %v, want close code %d", err, tt.code)
				}
			}
			<-c.Done()
			if _, err := c.Subscribe(t.Context(), []string{"a.b"}, SubscribeOptions{}); !errors.As(err, &ce) {
				t.Errorf("subscribe later: have %v, want why the client ended", err)
			}
			if have := g.accepted(); have != 1 {
				t.Errorf("have %d connections, want 1", have)
			}
		})
	}
}

func TestRefusedHandshake(t *testing.T) {
	for status, want := range map[int]wire.CloseCode{401: wire.CloseUnauthorized, 403: wire.CloseForbidden} {
		g := startGateway(t, newStream())
		g.hooks(func(w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, "no", status)
			return false
		}, nil)
		c := connect(t, Options{URL: g.url()})
		s := subscribe(t, c, "host.>", SubscribeOptions{})
		err := s.Ready(t.Context())
		if ce, is := errors.AsType[*CloseError](err); !is || ce.Code != want {
			t.Errorf("HTTP %d: have %v, want close code %d", status, err, want)
		}
	}
}

// Every connect asks for a token; what the user adds to the handshake arrives.
func TestTokenAndHeader(t *testing.T) {
	st := newStream()
	g := startGateway(t, st)
	got := make(chan string, 10)
	g.hooks(func(_ http.ResponseWriter, r *http.Request) bool {
		got <- r.Header.Get("Authorization") + " " + r.Header.Get("X-Team")
		return true
	}, nil)
	var n atomic.Int32
	c := connect(t, Options{
		URL:        g.url(),
		HTTPHeader: http.Header{"X-Team": {"ops"}},
		Token: func(context.Context) (string, error) {
			if n.Add(1) == 1 {
				return "", errors.New("the vault sleeps")
			}
			return fmt.Sprint("t", n.Load()), nil
		},
	})
	s := subscribe(t, c, "host.>", SubscribeOptions{})
	if u := next[*Connection](t, s); u.Connected || !strings.Contains(fmt.Sprint(u.Err), "get token: the vault sleeps") {
		t.Errorf("have %+v, want the token's error", u)
	}
	if have, want := <-got, "Bearer t2 ops"; have != want {
		t.Errorf("have %q, want %q", have, want)
	}
	nextThat(t, s, func(u *Connection) bool { return u.Connected })
	g.hangUp(wire.CloseTokenExpired)
	if have, want := <-got, "Bearer t3 ops"; have != want {
		t.Errorf("have %q, want %q", have, want)
	}
}

func TestSubscribeRefused(t *testing.T) {
	st := newStream()
	st.publish("host.cpu", 1)
	g := startGateway(t, st)
	tries := 0
	g.hooks(nil, func(p *peer, f *wire.ClientFrame) bool {
		if f.Subscribe == nil {
			return false
		}
		switch f.Subscribe.Topics[0] {
		case "eth.>":
			p.send(&wire.ServerFrame{ID: f.ID, Error: &wire.Error{Code: wire.CodeForbidden, Message: "not yours"}})
			return true
		case "host.>":
			if tries++; tries == 1 {
				p.send(&wire.ServerFrame{ID: f.ID, Error: &wire.Error{Code: wire.CodeUnavailable, Message: "no stream yet", Retryable: true}})
				return true
			}
		}
		return false
	})
	c := connect(t, Options{URL: g.url()})
	bad := subscribe(t, c, "eth.>", SubscribeOptions{})
	good := subscribe(t, c, "host.>", SubscribeOptions{})
	e, is := errors.AsType[*Error](bad.Ready(t.Context()))
	if !is || e.Code != wire.CodeForbidden || e.Message != "not yours" || !reflect.DeepEqual(e.Topics, []string{"eth.>"}) {
		t.Errorf("have %v, want forbidden for eth.>", e)
	}
	for range bad.Updates() {
	}
	if bad.Err() == nil {
		t.Error("the refused subscription has no error")
	}
	if err := good.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	next[*Event](t, good)
	if c.Err() != nil {
		t.Errorf("the client ended: %v", c.Err())
	}
}

// What is no frame may have been an event, so the client resumes. What a later
// version of the protocol may add is ignored.
func TestGarbage(t *testing.T) {
	st := newStream()
	st.publish("host.cpu", 1)
	g := startGateway(t, st)
	c := connect(t, Options{URL: g.url()})
	s := subscribe(t, c, "host.>", SubscribeOptions{})
	next[*Event](t, s)
	g.each(func(p *peer) {
		p.raw(websocket.TextMessage, []byte(`{"novelty":{"a":[1,2]}}`))
		p.raw(websocket.TextMessage, []byte(`{"pong":{},"id":99}`))
		p.raw(websocket.TextMessage, []byte(`{"error":{"code":"strange","message":"x"}}`))
	})
	st.publish("host.cpu", 2)
	if ev := next[*Event](t, s); ev.Version != 2 || g.accepted() != 1 {
		t.Errorf("have %+v over %d connections, want version 2 over 1", ev, g.accepted())
	}
	version := uint64(2)
	for _, tt := range []struct {
		name string
		typ  int
		msg  string
		want string
	}{
		{"half a JSON", websocket.TextMessage, `{"event":{"topic":"host.c`, "no frame"},
		{"wrong type", websocket.TextMessage, `{"event":"host.cpu"}`, "no frame"},
		{"no topic", websocket.TextMessage, `{"event":{"seq":4}}`, "without topic"},
		{"binary", websocket.BinaryMessage, "\x08\x01", "binary"},
		{"not UTF-8", websocket.TextMessage, "\xff\xfe", "no frame"},
	} {
		g.each(func(p *peer) { p.raw(tt.typ, []byte(tt.msg)) })
		u := nextThat(t, s, func(u *Connection) bool { return !u.Connected })
		if !strings.Contains(u.Err.Error(), tt.want) {
			t.Errorf("%s: have %v, want %q in it", tt.name, u.Err, tt.want)
		}
		version++
		st.publish("host.cpu", version)
		if ev := next[*Event](t, s); ev.Version != version {
			t.Errorf("%s: have version %d, want %d", tt.name, ev.Version, version)
		}
	}
}

// Subscriptions that overlap get every event once each, and ending one leaves
// the other whole.
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

func TestConflictingSubscriptions(t *testing.T) {
	c := connect(t, Options{URL: startGateway(t, newStream()).url()})
	subscribe(t, c, "host.>", SubscribeOptions{})
	for _, o := range []SubscribeOptions{
		{Delivery: wire.DeliverLatest},
		{MaxHz: 2},
		{Since: &Position{1, "E1"}},
	} {
		if _, err := c.Subscribe(t.Context(), []string{"host.cpu"}, o); err == nil || !strings.Contains(err.Error(), "overlaps") {
			t.Errorf("%+v: have %v, want a conflict", o, err)
		}
		if s, err := c.Subscribe(t.Context(), []string{"eth.cpu"}, o); err != nil {
			t.Errorf("%+v: %v", o, err)
		} else {
			s.Close()
		}
	}
}

// Versions are skipped because that is what was asked for: no gap.
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

// A position that an earlier run has stored brings what was published since.
func TestSince(t *testing.T) {
	st := newStream()
	var third wire.Event
	for i := range 6 {
		if ev := st.publish("host.cpu", i); i == 2 {
			third = ev
		}
	}
	g := startGateway(t, st)
	c := connect(t, Options{URL: g.url()})
	pos := (&Event{Event: third, Epoch: "E1"}).Position()
	s := subscribe(t, c, "host.>", SubscribeOptions{Since: &pos})
	if r := next[*Resumed](t, s); !r.Complete {
		t.Errorf("have %+v, want complete", r)
	}
	for i := range 3 {
		if ev := next[*Event](t, s); ev.Version != uint64(4+i) || ev.Phase != wire.Replay {
			t.Errorf("have %+v, want version %d", ev, 4+i)
		}
	}
}

func TestMaxTopics(t *testing.T) {
	st := newStream()
	for i := range 4 {
		st.publish(fmt.Sprintf("host.t%d", i), i)
	}
	st.publish("eth.head", 1)
	g := startGateway(t, st)
	c := connect(t, Options{URL: g.url(), MaxTopics: 3})
	small := subscribe(t, c, "eth.>", SubscribeOptions{})
	next[*Event](t, small)
	big := subscribe(t, c, "host.>", SubscribeOptions{})
	for range big.Updates() {
	}
	if !errors.Is(big.Err(), ErrTooManyTopics) {
		t.Errorf("have %v, want %v", big.Err(), ErrTooManyTopics)
	}
	st.publish("eth.head", 2)
	next[*Event](t, small)
	if have := topicsOf(c); len(have) != 1 {
		t.Errorf("have %v, want eth.head alone", have)
	}
}

// Deleted keys are told and forgotten.
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
	// accepts and says nothing
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

// A gateway that is not there yet is waited for, and that is said once.
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

func TestBadOptions(t *testing.T) {
	for _, tt := range []struct{ url, want string }{
		{"", "scheme"},
		{"localhost:12080", "scheme"},
		{"ftp://x", `scheme "ftp"`},
		{"ws://", "no host"},
		{"ws://joe:secret@x/v1/ws", "user or password"},
		{"ws://x:y:z/secret", "URL of the gateway"},
	} {
		_, err := New(Options{URL: tt.url})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: have %v, want %q in it", tt.url, err, tt.want)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error tells a secret: %v", tt.url, err)
		}
	}
	c := connect(t, Options{URL: "ws://127.0.0.1:1"})
	for _, tt := range []struct {
		topics string
		o      SubscribeOptions
		want   string
	}{
		{"", SubscribeOptions{}, "no topics"},
		{"host..cpu", SubscribeOptions{}, "token 2 is empty"},
		{"host.>", SubscribeOptions{Delivery: "some"}, `Delivery "some"`},
		{"host.>", SubscribeOptions{Delivery: wire.DeliverAll, MaxHz: 1}, "MaxHz 1"},
		{"host.>", SubscribeOptions{MaxHz: -1}, "MaxHz -1"},
		{"host.>", SubscribeOptions{Buffer: -1}, "Buffer -1"},
		{"host.>", SubscribeOptions{Since: &Position{Seq: 1}}, "no epoch"},
	} {
		_, err := c.Subscribe(t.Context(), strings.Fields(tt.topics), tt.o)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q %+v: have %v, want %q in it", tt.topics, tt.o, err, tt.want)
		}
	}
}
