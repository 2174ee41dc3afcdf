package client

import (
	"context"
	"fmt"
	"net"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
)

// The gateway is killed and started again at the same address. The events
// published meanwhile arrive once and in order, and no value looked live.
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

// A resume that cannot be complete reports the reason, the topics with missing
// events, and the topics that are gone.
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

// In another incarnation of the stream lower sequence numbers and versions are no
// duplicates.
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

// When the gateway announces its end the client connects to another one first:
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
		t.Error("no update reported that the client moved")
	}
	if v, _ := c.Value("host.cpu"); v.Stale {
		t.Errorf("have %+v, want fresh", v)
	}
}

// A reader that does not read stops the connection. The gateway closes it, and
// the client resumes without a gap when the reader reads again.
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

// A message that is no frame may have been an event, so the client resumes.
// Frames of a later version of the protocol are ignored.
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

// A stored position brings the events that were published since.
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

// sinces returns the positions in the subscribe frames of the last connection,
// one per subscription.
func sinces(g *gateway, n int) []uint64 {
	all := g.subscribes()
	var out []uint64
	for _, f := range all[len(all)-n:] {
		if f.Since == nil {
			out = append(out, 0)
		} else {
			out = append(out, f.Since.Seq)
		}
	}
	return out
}

// The position is the connection's: a quiet topic does not ask again for the
// events of the busy ones.
func TestPositions(t *testing.T) {
	st := newStream()
	st.publish("host.quiet", 1)
	g := startGateway(t, st)
	c := connect(t, Options{URL: g.url()})
	quiet := subscribe(t, c, "host.quiet", SubscribeOptions{})
	next[*Event](t, quiet)
	busy := subscribe(t, c, "host.busy", SubscribeOptions{})
	if err := busy.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "complete snapshots", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.frames[len(g.frames)-1].Ping != nil
	})
	for i := range 50 {
		st.publish("host.busy", i)
	}
	nextThat(t, busy, func(e *Event) bool { return e.Version == 50 })
	g.drop()
	next[*Resumed](t, busy)
	next[*Resumed](t, quiet)
	if have := sinces(g, 2); !reflect.DeepEqual(have, []uint64{51, 51}) {
		t.Errorf("asked for what came after %v, want 51 twice", have)
	}
}

// A connection that is lost before the snapshot was complete leaves no position
// to resume from: the rest of the snapshot would be missing.
func TestLostDuringSnapshot(t *testing.T) {
	st := newStream()
	st.publish("host.a", 1)
	st.publish("host.b", 1)
	g := startGateway(t, st)
	g.hooks(nil, func(p *peer, f *wire.ClientFrame) bool {
		if f.Subscribe == nil || g.accepted() > 1 {
			return f.Ping != nil && g.accepted() == 1
		}
		// The connection breaks after half a snapshot.
		ev := st.last["host.a"]
		ev.Phase = wire.Snapshot
		p.send(&wire.ServerFrame{ID: f.ID, Subscribed: &wire.Subscribed{Topics: f.Subscribe.Topics, Seq: 2, Epoch: "E1"}})
		p.send(&wire.ServerFrame{Event: &ev})
		p.conn.NetConn().Close()
		return true
	})
	c := connect(t, Options{URL: g.url()})
	s := subscribe(t, c, "host.>", SubscribeOptions{})
	if ev := next[*Event](t, s); ev.Topic != "host.a" {
		t.Errorf("have %s, want host.a", ev.Topic)
	}
	if r := next[*Resumed](t, s); r.Complete || r.Reason != "" {
		t.Errorf("have %+v, want no place to go on from", r)
	}
	if ev := next[*Event](t, s); ev.Topic != "host.b" {
		t.Errorf("have %s, want host.b, once", ev.Topic)
	}
	if have := sinces(g, 1); have[0] != 0 {
		t.Errorf("asked for what came after %d, want a snapshot", have[0])
	}
}

// With DeliverLatest only the newest values are asked for after a loss.
func TestLatestAfterLoss(t *testing.T) {
	st := newStream()
	st.publish("host.cpu", 1)
	g := startGateway(t, st)
	c := connect(t, Options{URL: g.url()})
	s := subscribe(t, c, "host.>", SubscribeOptions{Delivery: wire.DeliverLatest})
	next[*Event](t, s)
	st.publish("host.cpu", 2)
	next[*Event](t, s)
	g.kill()
	for i := range 5 {
		st.publish("host.cpu", 3+i)
	}
	g = startGatewayAt(t, st, g.addr)
	timeout := time.After(patience)
	for done := false; !done; {
		select {
		case u := <-s.Updates():
			switch u := u.(type) {
			case *Event:
				if done = true; u.Version != 7 || u.Phase != wire.Snapshot {
					t.Errorf("have %+v, want the newest value alone", u)
				}
			case *Resumed, *Gap, nil:
				t.Errorf("unexpected %T", u)
			}
		case <-timeout:
			t.Fatal("no event came")
		}
	}
	if have := sinces(g, 1); have[0] != 0 {
		t.Errorf("asked for what came after %d, want a snapshot", have[0])
	}
}
