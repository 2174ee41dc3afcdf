package gateway

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/hub"
	"github.com/prometheus/client_golang/prometheus"
)

// A feed with many clients takes its turns with the others, who need not wait
// until all of those have theirs. Nobody is passed over, whatever comes, goes and
// grows in the middle of a walk.
func TestWalkInStrides(t *testing.T) {
	s := newServer(DefaultConfig(), "gw", 1, newMetrics(prometheus.NewRegistry()), quiet())
	w, in := s.writers[0], &intake{Hub: s.hub}
	in.Reset("E")
	in.Snapshot(nil, 0)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	connect := func(topic string) *conn {
		there, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		read := make(chan struct{})
		go func() {
			defer close(read)
			_, _ = io.Copy(io.Discard, there) // until it is closed
		}()
		here, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { here.Close(); there.Close(); <-read })
		c := s.newConn(here, hub.JSON)
		s.conns.add(c)
		if err := s.subscribe(c, 0, &wire.Subscribe{Topics: []string{topic}}); err != nil {
			t.Fatal(err)
		}
		return c
	}
	seq := uint64(0)
	tell := func(topic string) {
		seq++
		now := time.Now()
		in.Append([]bus.Message{{Seq: seq, Stored: now, Event: &event.Event{Topic: topic, Poll: topic, Version: seq, Data: []byte("1"), ChangedAt: now, AsOf: now}}}, seq, false)
	}
	behind := func(conns []*conn) (n int) {
		for _, c := range conns {
			if c.lag() > 0 {
				n++
			}
		}
		return n
	}
	finish := func() {
		t.Helper()
		for range 1000 {
			if !w.turn() {
				return
			}
		}
		t.Fatal("the writer has no end")
	}
	var many []*conn
	const clients = 5*strideConns + 10
	for range clients {
		many = append(many, connect("a.x"))
	}
	few := []*conn{connect("b.x")}
	finish()
	tell("a.x")
	tell("b.x")
	if behind(many) != clients || behind(few) != 1 {
		t.Fatalf("%d and %d are behind, want all", behind(many), behind(few))
	}
	w.turn()
	if n := behind(many); n != clients-strideConns || behind(few) != 0 {
		t.Errorf("after a turn %d of the many are behind, and %d of the few; want %d and none", n, behind(few), clients-strideConns)
	}
	tell("a.x") // those who were visited are behind again
	w.turn()
	for _, i := range []int{0, 1, clients / 2, clients - 1} { // of both who were and were not visited
		s.forget(many[i])
	}
	many = append(many[2:clients/2], many[clients/2+1:clients-1]...)
	many = append(many, connect("a.x"))
	w.turn()
	tell("b.x")
	w.turn()
	if behind(few) != 0 {
		t.Error("the few wait for the many")
	}
	finish()
	if n := behind(many); n > 0 {
		t.Errorf("%d of %d were passed over", n, len(many))
	}
	for i, c := range many {
		if have, want := c.sent.Load(), c.feed.Load().End(); have != want {
			t.Errorf("client %d has %d bytes, want %d", i, have, want)
		}
	}
	if g := many[0].group; g.dirty.Load() || g.walking {
		t.Error("the group still waits for a walk")
	}
}
