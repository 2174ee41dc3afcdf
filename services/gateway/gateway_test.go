package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come; it only ends a test
// that fails.
const patience = 20 * time.Second

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// A rig is a gateway on a real NATS server, and a hand that publishes.
type rig struct {
	t     *testing.T
	nats  *bustest.Server
	js    jetstream.JetStream
	names bus.Names
	gw    *Gateway
	stop  func()
	// through, if set, stands between the gateway and NATS.
	through *bustest.Proxy

	versions map[string]uint64
}

func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, nats: bustest.Start(t), versions: map[string]uint64{}}
	_, r.js, r.names = r.nats.JetStream()
	r.gw, r.stop = r.start(change)
	return r
}

// start runs another gateway on the rig's NATS until the test ends.
func (r *rig) start(change func(*Config)) (*Gateway, func()) {
	r.t.Helper()
	cfg := DefaultConfig()
	cfg.Listen, cfg.Operations, cfg.DrainTime = "127.0.0.1:0", "127.0.0.1:0", 50*time.Millisecond
	if change != nil {
		change(&cfg)
	}
	nats := r.nats.Config()
	if r.through != nil {
		nats = r.through.Config()
	}
	gw, err := New(Options{Config: cfg, NATS: nats, Name: "gw", Logger: quiet(), Registry: prometheus.NewRegistry()})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- gw.Run(ctx) }()
	stop := sync.OnceFunc(func() { // a test may stop it while it ends
		cancel()
		select {
		case err := <-done:
			if err != nil {
				r.t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			r.t.Error("Run does not end")
		}
	})
	r.t.Cleanup(stop)
	eventually(r.t, "the gateway is ready", func() bool { return gw.Ready() == nil })
	return gw, stop
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func (r *rig) event(topic, data string) {
	r.t.Helper()
	r.versions[topic]++
	now := time.Now().UTC().Truncate(time.Millisecond) // as pollers say it
	e := &event.Event{Topic: topic, Poll: topic, Data: json.RawMessage(data), Version: r.versions[topic], ChangedAt: now, AsOf: now, Fence: 1}
	m := r.names.EventMsg(e, now)
	m.Header.Set("Nats-Msg-Id", fmt.Sprintf("%s:%d", topic, e.Version))
	if _, err := r.js.PublishMsg(r.t.Context(), m); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) fresh(f event.Freshness) {
	r.t.Helper()
	if f.CheckedAt.IsZero() {
		f.CheckedAt = time.Now().UTC()
	}
	if f.MaxAgeMs == 0 {
		f.MaxAgeMs, f.IntervalMs = 60_000, 20_000
	}
	if f.Breaker == "" {
		f.Breaker = event.Closed
	}
	m, err := r.names.FreshMsg(&f, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.js.PublishMsg(r.t.Context(), m); err != nil {
		r.t.Fatal(err)
	}
}

// A peer is a client that is not our SDK.
type peer struct {
	t  *testing.T
	ws *websocket.Conn
}

func (r *rig) dial(path string) *peer { return dial(r.t, r.gw.Addr(), path) }

func dial(t *testing.T, addr, path string) *peer {
	t.Helper()
	ws, _, err := websocket.DefaultDialer.Dial("ws://"+addr+path, nil)
	if err != nil {
		t.Fatalf("dial %s: %v", path, err)
	}
	t.Cleanup(func() { ws.Close() })
	p := &peer{t, ws}
	if f := p.next(); f.Welcome == nil || f.Welcome.PingIntervalMs != 30_000 || f.Welcome.Epoch == "" {
		t.Fatalf("first frame: %+v, want welcome", f)
	}
	return p
}

func (p *peer) send(s string) {
	p.t.Helper()
	if err := p.ws.WriteMessage(websocket.TextMessage, []byte(s)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) next() wire.ServerFrame {
	p.t.Helper()
	p.ws.SetReadDeadline(time.Now().Add(patience))
	_, b, err := p.ws.ReadMessage()
	if err != nil {
		p.t.Fatalf("read: %v", err)
	}
	var f wire.ServerFrame
	if err := json.Unmarshal(b, &f); err != nil {
		p.t.Fatalf("frame %s: %v", b, err)
	}
	return f
}

// until reads frames until one fits.
func (p *peer) until(what string, ok func(wire.ServerFrame) bool) wire.ServerFrame {
	p.t.Helper()
	for range 10_000 {
		if f := p.next(); ok(f) {
			return f
		}
	}
	p.t.Fatalf("10,000 frames without %s", what)
	panic("unreachable")
}

// closed reads until the connection ends and returns its close code.
func (p *peer) closed() int {
	p.t.Helper()
	p.ws.SetReadDeadline(time.Now().Add(patience))
	for {
		_, _, err := p.ws.ReadMessage()
		if ce, ok := err.(*websocket.CloseError); ok {
			return ce.Code
		}
		if err != nil {
			p.t.Fatalf("connection ended without a close frame: %v", err)
		}
	}
}

func TestSnapshotThenLive(t *testing.T) {
	r := newRig(t, nil)
	r.event("host.cpu", `{"percent":1}`)
	asOf := time.Now().UTC().Add(-3 * time.Second).Truncate(time.Millisecond)
	r.fresh(event.Freshness{Poll: "host.cpu", AsOf: time.Now().UTC(), Stale: true, Reason: event.BreakerOpen, Breaker: event.Open})
	r.event("other.x", `1`)
	r.fresh(event.Freshness{Poll: "other.x", AsOf: asOf})
	eventually(t, "the gateway has read it", func() bool { return position(r.gw.server) == 4 })

	p := r.dial("/v1/ws?topics=host.>")
	if f := p.next(); f.Subscribed == nil || f.Subscribed.Seq != 4 || f.Subscribed.Epoch == "" || f.Subscribed.Topics[0] != "host.>" {
		t.Fatalf("have %+v, want subscribed at 4", f)
	}
	f := p.next()
	if e := f.Event; e == nil || e.Phase != wire.Snapshot || e.Topic != "host.cpu" || e.Seq != 1 || string(e.Data) != `{"percent":1}` ||
		!e.Stale || e.Reason != event.BreakerOpen || e.Breaker != event.Open {
		t.Fatalf("have %+v, want the snapshot of host.cpu, stale", f.Event)
	}
	if f := p.next(); f.Fresh == nil || f.Fresh.Poll != "host.cpu" || f.Fresh.Reason != event.BreakerOpen {
		t.Fatalf("have %+v, want the freshness of host.cpu", f)
	}
	r.event("other.x", `2`)
	r.event("host.cpu", `{"percent":2}`)
	f = p.next()
	if e := f.Event; e == nil || e.Phase != wire.Live || e.Version != 2 || e.Stale || e.Reason != "" || e.Breaker != event.Closed {
		t.Fatalf("have %+v, want the live event, fresh: its poll was just answered", f.Event)
	}
	// A second subscription brings only what is new; a repeated one nothing.
	p.send(`{"id":7,"subscribe":{"topics":["other.x","host.>"]}}`)
	if f := p.next(); f.ID != 7 || f.Subscribed == nil {
		t.Fatalf("have %+v, want subscribed 7", f)
	}
	f = p.next()
	if e := f.Event; e == nil || e.Topic != "other.x" || string(e.Data) != "2" || e.Phase != wire.Snapshot {
		t.Fatalf("have %+v, want the snapshot of other.x", f.Event)
	}
	if f := p.next(); f.Fresh == nil || f.Fresh.Poll != "other.x" {
		t.Fatalf("have %+v, want the freshness of other.x", f)
	}
	p.send(`{"id":8,"subscribe":{"topics":["host.>"]}}`)
	if f := p.next(); f.ID != 8 || f.Subscribed == nil {
		t.Fatalf("have %+v, want subscribed 8", f)
	}
	p.send(`{"id":9,"unsubscribe":{"topics":["host.>"]}}`)
	if f := p.next(); f.ID != 9 || f.Unsubscribed == nil {
		t.Fatalf("have %+v, want unsubscribed 9", f)
	}
	r.event("host.cpu", `3`)
	r.event("other.x", `3`)
	f = p.next()
	if e := f.Event; e == nil || e.Topic != "other.x" || string(e.Data) != "3" {
		t.Fatalf("have %+v, want other.x alone after unsubscribing from host.>", f.Event)
	}
	p.send(`{"id":10,"ping":{}}`)
	if f := p.next(); f.ID != 10 || f.Pong == nil {
		t.Fatalf("have %+v, want pong", f)
	}
}

func TestBreakerFrames(t *testing.T) {
	r := newRig(t, nil)
	p := r.dial("/v1/ws?topics=host.cpu")
	p.next() // subscribed
	m, err := r.names.BreakerMsg(&event.Breaker{Source: "host", Upstream: "http://u", From: event.Closed, To: event.Open, Cause: "refused", Failures: 5, At: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.js.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if f := p.next(); f.Breaker == nil || f.Breaker.To != event.Open || f.Breaker.Source != "host" {
		t.Fatalf("have %+v, want the breaker of host", f)
	}
}

func TestPollerSilent(t *testing.T) {
	r := newRig(t, nil)
	p := r.dial("/v1/ws?topics=>")
	r.event("host.cpu", `1`)
	r.fresh(event.Freshness{Poll: "host.cpu", AsOf: time.Now().UTC(), IntervalMs: 300, MaxAgeMs: 900})
	p.until("fresh", func(f wire.ServerFrame) bool { return f.Fresh != nil && !f.Fresh.Stale })
	f := p.until("stale", func(f wire.ServerFrame) bool { return f.Fresh != nil })
	if f.Fresh.Reason != event.PollerSilent || !f.Fresh.Stale {
		t.Fatalf("have %+v, want poller_silent", f.Fresh)
	}
	// A record ends the silence.
	r.fresh(event.Freshness{Poll: "host.cpu", AsOf: time.Now().UTC()})
	p.until("fresh again", func(f wire.ServerFrame) bool { return f.Fresh != nil && !f.Fresh.Stale })
}

func TestBusGoneAndBack(t *testing.T) {
	r := newRig(t, nil)
	r.event("host.cpu", `1`)
	r.fresh(event.Freshness{Poll: "host.cpu", AsOf: time.Now().UTC()})
	p := r.dial("/v1/ws?topics=>")
	p.until("snapshot", func(f wire.ServerFrame) bool { return f.Event != nil })
	r.nats.Stop()
	p.until("bus_disconnected", func(f wire.ServerFrame) bool {
		return f.Fresh != nil && f.Fresh.Stale && f.Fresh.Reason == event.BusDisconnected
	})
	if r.gw.Ready() == nil {
		t.Error("ready without NATS")
	}
	// A newcomer is served the last good value, marked.
	late := r.dial("/v1/ws?topics=>")
	f := late.until("snapshot", func(f wire.ServerFrame) bool { return f.Event != nil })
	if f.Event.Reason != event.BusDisconnected || !f.Event.Stale || string(f.Event.Data) != "1" {
		t.Fatalf("have %+v, want the value, stale: bus_disconnected", f.Event)
	}
	r.nats.Restart()
	p.until("fresh again", func(f wire.ServerFrame) bool { return f.Fresh != nil && !f.Fresh.Stale })
	eventually(t, "ready again", func() bool { return r.gw.Ready() == nil })
	eventually(t, "the publisher is back", func() bool {
		_, err := r.js.Stream(context.Background(), "POLLCAST")
		return err == nil
	})
	r.event("host.cpu", `2`)
	f = p.until("live", func(f wire.ServerFrame) bool { return f.Event != nil })
	if string(f.Event.Data) != "2" || f.Event.Version != 2 {
		t.Fatalf("have %+v, want version 2", f.Event)
	}
}

func TestBadFrames(t *testing.T) {
	r := newRig(t, nil)
	bystander := r.dial("/v1/ws?topics=>")
	bystander.next()
	for _, tt := range []struct{ frame, code, text string }{
		{`garbage`, "bad_frame", "not a JSON object"},
		{`[]`, "bad_frame", "not a JSON object"},
		{`{}`, "bad_frame", "exactly one"},
		{`{"id":1}`, "bad_frame", "exactly one"},
		{`{"id":-1,"ping":{}}`, "bad_frame", "whole number"},
		{`{"id":1,"ping":{},"subscribe":{"topics":["a.b"]}}`, "bad_frame", "this one has 2"},
		{`{"id":1,"ping":null}`, "bad_frame", "null"},
		{`{"id":1,"subscribe":{"topics":"a.b"}}`, "bad_frame", "topics"},
		{`{"id":1,"publish":{}}`, "unknown_frame", "publish"},
		{`{"id":1,"subscribe":{}}`, "invalid_topic", "at least one"},
		{`{"id":1,"subscribe":{"topics":["a..b"]}}`, "invalid_topic", "token 2 is empty"},
		{`{"id":1,"subscribe":{"topics":["a._fresh"]}}`, "invalid_topic", "reserved"},
		{`{"id":1,"subscribe":{"topics":["a.b"],"delivery":"some"}}`, "invalid", "delivery"},
	} {
		p := r.dial("/v1/ws")
		p.send(tt.frame)
		f := p.next()
		if f.Error == nil || string(f.Error.Code) != tt.code || !strings.Contains(f.Error.Message, tt.text) {
			t.Errorf("%s: have %+v, want %s with %q", tt.frame, f.Error, tt.code, tt.text)
		}
		p.send(`{"id":99,"ping":{}}`) // the connection goes on
		if f := p.next(); f.ID != 99 || f.Pong == nil {
			t.Errorf("%s: no pong after the error: %+v", tt.frame, f)
		}
	}
	p := r.dial("/v1/ws")
	if err := p.ws.WriteMessage(websocket.BinaryMessage, []byte{1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	if f := p.next(); f.Error == nil || f.Error.Code != wire.CodeBadFrame {
		t.Errorf("binary: have %+v, want bad_frame", f)
	}
	p.ws.WriteMessage(websocket.TextMessage, []byte{0xff, 0xfe})
	if code := p.closed(); code != 1007 {
		t.Errorf("text that is not UTF-8: closed with %d, want 1007", code)
	}
	p = r.dial("/v1/ws")
	p.ws.WriteMessage(websocket.TextMessage, []byte(`{"x":"`+strings.Repeat("x", 1<<20)+`"}`))
	if code := p.closed(); code != 1009 {
		t.Errorf("1 MB: closed with %d, want 1009", code)
	}
	p = r.dial("/v1/ws")
	for range maxBadFrames + 1 {
		p.send(`garbage`)
	}
	if code := p.closed(); code != 4502 {
		t.Errorf("only garbage: closed with %d, want 4502", code)
	}
	p = r.dial("/v1/ws")
	many := make([]string, r.gw.server.cfg.MaxTopics+1)
	for i := range many {
		many[i] = fmt.Sprintf(`"t.%d"`, i)
	}
	p.send(`{"id":3,"subscribe":{"topics":[` + strings.Join(many, ",") + `]}}`)
	if f := p.next(); f.Error == nil || f.Error.Code != wire.CodeLimit || f.ID != 3 {
		t.Errorf("too many topics: have %+v, want limit", f)
	}
	// And nobody else noticed.
	r.event("host.cpu", `1`)
	if f := bystander.next(); f.Event == nil {
		t.Errorf("the bystander got %+v, want the event", f)
	}
}

func TestHandshake(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxConnections = 1; c.AllowedOrigins = []string{"https://ok.example"} })
	get := func(path string, header http.Header) *http.Response {
		t.Helper()
		_, res, err := websocket.DefaultDialer.Dial("ws://"+r.gw.Addr()+path, header)
		if err == nil || res == nil {
			t.Fatalf("%s: err %v, want a refusal", path, err)
		}
		return res
	}
	if res := get("/v1/ws", http.Header{"Origin": {"https://evil.example"}}); res.StatusCode != http.StatusForbidden {
		t.Errorf("foreign origin: %s", res.Status)
	}
	if res := get("/v1/ws?topics=", nil); res.StatusCode != http.StatusBadRequest {
		t.Errorf("empty topics: %s", res.Status)
	}
	if res := get("/v1/ws", http.Header{"Sec-Websocket-Protocol": {"graphql-ws"}}); res.StatusCode != http.StatusBadRequest {
		t.Errorf("foreign subprotocol: %s", res.Status)
	}
	if res, err := http.Get("http://" + r.gw.Addr() + "/v1/ws"); err != nil || res.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("plain GET: %v %v", res, err)
	} else {
		res.Body.Close()
	}
	ws, _, err := websocket.DefaultDialer.Dial("ws://"+r.gw.Addr()+"/ws", http.Header{"Origin": {"https://ok.example"}})
	if err != nil {
		t.Fatalf("allowed origin: %v", err)
	}
	defer ws.Close()
	full, _, err := websocket.DefaultDialer.Dial("ws://"+r.gw.Addr()+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	if code := (&peer{t, full}).closed(); code != 1013 {
		t.Errorf("no room: closed with %d, want 1013", code)
	}
	// The place is free again when its holder has gone.
	ws.Close()
	eventually(t, "room again", func() bool {
		ws, _, err := websocket.DefaultDialer.Dial("ws://"+r.gw.Addr()+"/ws", nil)
		if err != nil {
			return false
		}
		defer ws.Close()
		ws.SetReadDeadline(time.Now().Add(patience))
		_, b, err := ws.ReadMessage()
		return err == nil && strings.Contains(string(b), "welcome")
	})
}

func TestDrain(t *testing.T) {
	r := newRig(t, func(c *Config) { c.DrainTime = 200 * time.Millisecond })
	var peers []*peer
	for range 5 {
		p := r.dial("/v1/ws?topics=>")
		p.next()
		peers = append(peers, p)
	}
	go r.stop()
	for _, p := range peers {
		f := p.until("goaway", func(f wire.ServerFrame) bool { return f.GoAway != nil })
		if f.GoAway.Reason != "draining" || f.GoAway.ReconnectAfterMs > 200 {
			t.Errorf("have %+v, want draining within 200 ms", f.GoAway)
		}
		if code := p.closed(); code != 1012 {
			t.Errorf("closed with %d, want 1012", code)
		}
	}
	r.stop()
}

// When all clients have left there is nothing to wait for.
func TestDrainOfLeavers(t *testing.T) {
	r := newRig(t, func(c *Config) { c.DrainTime = 10 * time.Minute })
	peers := []*peer{r.dial("/v1/ws"), r.dial("/v1/ws")}
	stopped := make(chan struct{})
	go func() {
		r.stop()
		close(stopped)
	}()
	for _, p := range peers {
		p.until("goaway", func(f wire.ServerFrame) bool { return f.GoAway != nil })
		p.ws.Close()
	}
	select {
	case <-stopped:
	case <-time.After(patience):
		t.Error("the gateway waits for clients that have left")
	}
}

func TestClientCloses(t *testing.T) {
	r := newRig(t, nil)
	p := r.dial("/v1/ws?topics=>")
	p.next()
	msg := websocket.FormatCloseMessage(1000, "bye")
	if err := p.ws.WriteControl(websocket.CloseMessage, msg, time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if code := p.closed(); code != 1000 {
		t.Errorf("the gateway answered %d, want 1000", code)
	}
	eventually(t, "the connection is forgotten", func() bool { return len(r.gw.server.conns.all()) == 0 })
	if n := r.gw.Status().Feeds; n != 0 {
		t.Errorf("%d feeds left, want none", n)
	}
}
