package client

import (
	"testing"

	"github.com/pollcast/pollcast/pkg/wire"
)

// A client that reconnects without a position sends what it has seen, and moves
// to another gateway when this one is behind that. No older value replaces one
// that it has, and nothing is taken for deleted.
func TestNotOlderThan(t *testing.T) {
	st := newStream()
	st.publishKey("host.disk", "a", 1)
	st.fresh(ok("host.disk"))
	g := startGateway(t, st)
	c := connect(t, Options{URL: g.url()})
	s := subscribe(t, c, "host.>", SubscribeOptions{Delivery: wire.DeliverLatest})
	next[*Event](t, s)
	st.publishKey("host.disk", "b", 1)
	st.publishKey("host.disk", "a", 2)
	nextThat(t, s, func(e *Event) bool { return e.Version == 2 })

	behind := g.accepted() + 1 // number of the connection whose gateway is cut off
	g.hooks(nil, func(p *peer, f *wire.ClientFrame) bool {
		if f.Subscribe == nil || g.accepted() != behind {
			return false
		}
		p.send(&wire.ServerFrame{ID: f.ID, Error: &wire.Error{Code: wire.CodeUnavailable, Retryable: true,
			Message: "behind"}})
		return true
	})
	g.drop()
	eventually(t, "another connection", func() bool { return g.accepted() > behind })
	st.publishKey("host.disk", "a", 3)
	for {
		e := next[*Event](t, s)
		if e.Deleted || e.Version < 2 {
			t.Fatalf("have %+v, want nothing older and no deletion", e)
		}
		if e.Version == 3 {
			break
		}
	}
	all := g.subscribes()
	for _, f := range all[1:] {
		if f.Since != nil || f.NotOlderThan == nil || *f.NotOlderThan != (wire.Since{Seq: 3, Epoch: "E1"}) {
			t.Errorf("asked for %+v not older than %+v, want 3 of E1", f.Since, f.NotOlderThan)
		}
	}
	if all[0].NotOlderThan != nil {
		t.Errorf("asked for %+v before anything was seen", all[0].NotOlderThan)
	}
}

// After a stream was set back, older sequence numbers are the current ones.
func TestSetBack(t *testing.T) {
	st := newStream()
	for i := range 5 {
		st.publish("host.cpu", i)
	}
	st.publish("host.gone", 1)
	g := startGateway(t, st)
	c := connect(t, Options{URL: g.url()})
	s := subscribe(t, c, "host.>", SubscribeOptions{Delivery: wire.DeliverLatest})
	next[*Event](t, s)
	next[*Event](t, s)
	g.kill()
	st.reset("E1")
	st.publish("host.cpu", 100)
	startGatewayAt(t, st, g.addr)
	if e := next[*Event](t, s); e.Deleted || string(e.Data) != "100" {
		t.Errorf("have %+v, want the value that the stream was set back to", e)
	}
	if e := next[*Event](t, s); e.Topic != "host.gone" || !e.Deleted {
		t.Errorf("have %+v, want host.gone gone", e)
	}
	if v, _ := c.Value("host.cpu"); string(v.Data) != "100" {
		t.Errorf("have %s, want 100", v.Data)
	}
	st.publish("host.cpu", 101)
	if e := next[*Event](t, s); string(e.Data) != "101" {
		t.Errorf("have %s, want 101", e.Data)
	}
}
