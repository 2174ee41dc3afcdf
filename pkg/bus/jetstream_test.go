package bus_test

import (
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/config"
)

// everything uses all that pollers and gateways use of NATS.
func everything(t *testing.T, c bus.Config) {
	t.Helper()
	n, err := c.Names()
	if err != nil {
		t.Fatal(err)
	}
	conn, log := connect(t, c)
	eventually(t, "the stream", func() bool {
		_, err := bus.EnsureStream(t.Context(), conn.JetStream(), n, c)
		return err == nil
	})
	leases := bus.NewLeases(conn, n, c)
	if _, err := leases.Create(t.Context(), "k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	if e, err := leases.Get(t.Context(), "k"); err != nil || string(e.Value()) != "v" {
		t.Errorf("lease: %v", err)
	}
	for i := range 5 {
		publish(t, conn.JetStream(), "a.b", i+1)
	}
	publish(t, conn.JetStream(), "a.c", 1)
	rec := follow(t, c)
	rec.see(t, "the snapshot", func() bool { return rec.up && rec.last == 6 })
	publish(t, conn.JetStream(), "a.b", 6)
	rec.see(t, "the live event", func() bool { return rec.last == 7 })
	if m, err := n.LastOn(t.Context(), conn.NATS(), n.In("a.b")); err != nil || m.Seq != 7 {
		t.Errorf("the last event: %+v, %v", m, err)
	}
	if strings.Contains(log.String(), "iolation") {
		t.Errorf("NATS refused something:\n%s", log)
	}
}

// The stream is in another JetStream domain, to which a leaf node leads.
func TestJetStreamDomain(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := &url.URL{Scheme: "nats", Host: ln.Addr().String()}
	port := ln.Addr().(*net.TCPAddr).Port
	ln.Close() // so that the hub can listen there
	hub := bustest.Start(t)
	hub.Change(func(o *server.Options) {
		o.JetStreamDomain, o.LeafNode.Host, o.LeafNode.Port = "hub", "127.0.0.1", port
	})
	leaf := bustest.Start(t)
	leaf.Change(func(o *server.Options) {
		o.JetStreamDomain, o.LeafNode.Remotes = "leaf", []*server.RemoteLeafOpts{{URLs: []*url.URL{at}}}
	})
	c := leaf.Config()
	c.JetStream.Domain = "hub"
	everything(t, c)
	for _, s := range []*bustest.Server{hub, leaf} {
		js, err := jetstream.New(s.Connect())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.Stream(t.Context(), names(t).Stream()); (err == nil) != (s == hub) {
			t.Errorf("the stream in the hub %v: %v", s == hub, err)
		}
	}
}

// The stream is in another account, which exports JetStream. The API answers with
// several messages, so that the export needs response_type stream.
func TestJetStreamOfAnotherAccount(t *testing.T) {
	t.Parallel()
	s := bustest.StartConfigured(t, `
		accounts {
			JS {
				jetstream: enabled
				exports: [
					{service: "$JS.API.>", response_type: "stream"}
					{service: "$KV.pollcast_leases.>"}
					{service: "pollcast.in.>"}
					{stream: "pollcast.live.>"}
				]
			}
			APP {
				users: [{user: u, password: p}]
				imports: [
					{service: {account: JS, subject: "$JS.API.>"}, to: "js.hub.>"}
					{service: {account: JS, subject: "$KV.pollcast_leases.>"}, to: "js.hub.$KV.pollcast_leases.>"}
					{service: {account: JS, subject: "pollcast.in.>"}}
					{stream: {account: JS, subject: "pollcast.live.>"}}
				]
			}
		}`)
	c := s.Config()
	c.User, c.Password, c.JetStream.APIPrefix = "u", config.NewSecret("p"), "js.hub"
	everything(t, c)
}
