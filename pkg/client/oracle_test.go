package client

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pollcast/pollcast/pkg/wire"
)

// Every subscription gets every event once and in the order of its topic, however
// often connections and gateways break.
func TestEverythingBreaks(t *testing.T) {
	st := newStream()
	topics := []string{"host.cpu", "host.mem", "eth.head"}
	for _, name := range topics {
		st.publish(name, 0)
		st.fresh(ok(name))
	}
	g := startGateway(t, st)
	c := connect(t, Options{URL: g.url()})
	patterns := []string{"host.>", "host.cpu eth.*", ">"}
	problems := make(chan string, len(patterns))
	for _, p := range patterns {
		s := subscribe(t, c, p, SubscribeOptions{Buffer: 1 + rand.IntN(50)})
		if err := s.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		go func() { problems <- watch(s, topics) }()
	}
	// Before its snapshot is complete a subscription has no position to resume
	// from.
	eventually(t, "complete snapshots", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.frames[len(g.frames)-1].Ping != nil
	})
	for _, name := range topics {
		st.publish(name, 0)
	}
	eventually(t, "the first live events", func() bool {
		v, _ := c.Value(topics[len(topics)-1])
		return v.Version == 2
	})

	for i := range 1500 {
		st.publish(topics[rand.IntN(len(topics))], i)
		if rand.IntN(3) == 0 {
			time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
		}
		switch rand.IntN(200) {
		case 0:
			g.drop()
		case 1:
			g.hangUp(wire.CloseSlowConsumer)
		case 2:
			g.kill()
			g = startGatewayAt(t, st, g.addr)
		case 3:
			g.send(&wire.ServerFrame{GoAway: &wire.GoAway{ReconnectAfterMs: int64(rand.IntN(30))}})
		case 4:
			g.each(func(p *peer) { p.raw(websocket.TextMessage, []byte("{")) })
		}
	}
	for _, name := range topics {
		st.publish(name, "end")
	}
	for range patterns {
		select {
		case problem := <-problems:
			if problem != "" {
				t.Error(problem)
			}
		case <-time.After(patience):
			t.Fatal("not every event arrived")
		}
	}
	eventually(t, "everything fresh again", func() bool {
		for _, name := range topics {
			if v, found := c.Value(name); !found || v.Stale {
				return false
			}
		}
		return true
	})
}

// watch reads a subscription up to the last event of every topic and returns the
// first mistake.
func watch(s *Subscription, topics []string) (problem string) {
	last, open := map[string]uint64{}, map[string]bool{}
	for _, name := range topics {
		if s.matches(name) {
			open[name] = true
		}
	}
	for u := range s.Updates() {
		switch u := u.(type) {
		case *Event:
			if v := last[u.Topic]; v > 0 && u.Version != v+1 {
				problem = fmt.Sprintf("%s: version %d (%s) after %d", u.Topic, u.Version, u.Phase, v)
			}
			last[u.Topic] = u.Version
			if string(u.Data) == `"end"` {
				delete(open, u.Topic)
			}
			if len(open) == 0 {
				return problem
			}
		case *Gap:
			problem = fmt.Sprintf("have %+v, want no gap", u)
		}
		if rand.IntN(20) == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	return fmt.Sprint("the subscription ended: ", s.Err())
}

func TestTLS(t *testing.T) {
	cert, pool := selfSigned(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	st := newStream()
	st.publish("host.cpu", 1)
	g := serveGateway(t, st, tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}}))
	good := connect(t, Options{URL: "wss://" + g.addr, TLSConfig: &tls.Config{RootCAs: pool}})
	next[*Event](t, subscribe(t, good, "host.>", SubscribeOptions{}))
	bad := connect(t, Options{URL: "wss://" + g.addr, TLSConfig: &tls.Config{RootCAs: x509.NewCertPool()}})
	u := next[*Connection](t, subscribe(t, bad, "host.>", SubscribeOptions{}))
	if u.Connected || !strings.Contains(u.Err.Error(), "certificate") {
		t.Errorf("have %+v, want the certificate refused", u)
	}
}
