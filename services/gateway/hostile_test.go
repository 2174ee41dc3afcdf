package gateway

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func counted(t *testing.T, v *prometheus.CounterVec, label string, atLeast float64) {
	t.Helper()
	eventually(t, "it is counted as "+label, func() bool { return testutil.ToFloat64(v.WithLabelValues(label)) >= atLeast })
}

// Clients that never say what they want are told 408 and let go.
func TestNoRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	var wg sync.WaitGroup
	for name, drip := range map[string]string{
		"opens and says nothing":        "",
		"sends its head byte by byte":   "GET /v1/ws HTTP/1.1\r\nHost: x\r\nX-Slow: " + strings.Repeat("z", 1000),
		"stops in the middle of a head": "GET /v1/",
	} {
		nc, err := net.Dial("tcp", r.gw.Addr())
		if err != nil {
			t.Fatal(err)
		}
		stop := dripping(nc, drip)
		wg.Go(func() {
			defer stop()
			nc.SetReadDeadline(time.Now().Add(patience))
			b := make([]byte, 64)
			n, err := io.ReadAtLeast(nc, b, 12)
			if !bytes.HasPrefix(b[:n], []byte("HTTP/1.1 408 ")) {
				t.Errorf("%s: have %q %v, want 408", name, b[:n], err)
			}
		})
	}
	wg.Wait()
	counted(t, r.gw.server.metrics.refused, "no_request", 3)
	eventually(t, "no socket is left", func() bool { return r.gw.server.sockets.count() == 0 })
}

// dripping writes a byte now and then, until the function it returns is
// called, which closes the connection.
func dripping(nc net.Conn, bytes string) (stop func()) {
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := range len(bytes) {
			if _, err := io.WriteString(nc, bytes[i:i+1]); err != nil {
				return
			}
			select {
			case <-ended:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return func() {
		close(ended)
		<-done
		nc.Close()
	}
}

// A client that may ask again is none that does not ask.
func TestIdleSocketStays(t *testing.T) {
	r := newRig(t, nil)
	s := r.gw.server
	res, err := http.Get("http://" + r.gw.Addr() + "/v1/topics")
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, res.Body)
	res.Body.Close()
	eventually(t, "the socket is idle", func() bool {
		s.sockets.mu.Lock()
		defer s.sockets.mu.Unlock()
		for _, sock := range s.sockets.m {
			return sock.since.IsZero()
		}
		return false
	})
	s.sockets.sweep(time.Now().Add(time.Hour), s.metrics.refused)
	if n := s.sockets.count(); n != 1 {
		t.Errorf("%d sockets, want the idle one", n)
	}
	http.DefaultClient.CloseIdleConnections()
}

// A client that begins a message and does not end it is closed, whether it
// sends the bytes one by one, stops, or goes on with empty fragments for ever.
func TestUnfinishedMessage(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	masked := "\x00\x00\x00\x00"
	var wg sync.WaitGroup
	for name, tt := range map[string]struct{ begin, drip string }{
		"stops":           {"\x01\xfe\x40\x00" + masked + "{", ""},
		"byte by byte":    {"\x81\xfe\x40\x00" + masked, "x"},
		"empty fragments": {"\x01\x80" + masked, "\x00\x80" + masked},
		"pings between":   {"\x01\x80" + masked, "\x89\x80" + masked},
	} {
		nc := half(t, r.gw.Addr())
		io.WriteString(nc, tt.begin)
		stop := dripping(nc, strings.Repeat(tt.drip, 1000))
		wg.Go(func() {
			defer stop()
			if code, text := closeOf(t, nc); code != int(wire.ClosePingTimeout) || text != "a message was not finished within 10s" {
				t.Errorf("%s: have %d %q, want 4003", name, code, text)
			}
		})
	}
	wg.Wait()
	counted(t, r.gw.server.metrics.frames, "unfinished", 4)
}

// Frames without end, of whatever kind, are counted, and then end the
// connection.
func TestFrameFlood(t *testing.T) {
	r := newRig(t, nil)
	masked := "\x00\x00\x00\x00"
	for name, frame := range map[string]string{
		"text":   "\x81\x82" + masked + "{}",
		"empty":  "\x81\x80" + masked,
		"pings":  "\x89\x80" + masked,
		"pongs":  "\x8a\x80" + masked,
		"binary": "\x82\x80" + masked,
	} {
		t.Run(name, func(t *testing.T) {
			nc := half(t, r.gw.Addr())
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				flood := []byte(strings.Repeat(frame, 1000))
				for range 1000 { // a million, unless it is stopped
					if _, err := nc.Write(flood); err != nil {
						return
					}
				}
			}()
			if code, text := closeOf(t, nc); code != int(wire.CloseBadFrame) {
				t.Errorf("have %d %q, want 4502", code, text)
			}
			nc.Close()
			<-sent
		})
	}
	counted(t, r.gw.server.metrics.frames, "rate_limited", 3*maxBadFrames)
	eventually(t, "all have gone", func() bool { return len(r.gw.server.conns.all()) == 0 })
}

// What cannot be had, or too much of it, is refused with a code.
func TestHostileSubscriptions(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxStreamTopics, c.MaxMessage, c.FrameRate = 300, 4<<20, 1000 })
	var many strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&many, `"t.n%d",`, i)
	}
	list := func(from, to int) string {
		var b strings.Builder
		for i := from; i < to; i++ {
			fmt.Fprintf(&b, `"t.n%d",`, i)
		}
		return strings.TrimSuffix(b.String(), ",")
	}
	p := r.dial("/v1/ws")
	for _, tt := range []struct{ name, topics, code string }{
		{"100,000 topics", strings.TrimSuffix(many.String(), ","), "limit"},
		{"reserved", `"s.p._fresh"`, "invalid_topic"},
		{"reserved, by wildcard", `"s.*._breaker"`, "invalid_topic"},
		{"everything", `">"`, ""},
		{"a topic that does not exist", `"no.such.topic"`, ""},
	} {
		p.send(`{"id":7,"subscribe":{"topics":[` + tt.topics + `]}}`)
		f := p.until("the answer", func(f wire.ServerFrame) bool { return f.ID == 7 })
		if f.Error != nil && string(f.Error.Code) != tt.code || f.Error == nil && tt.code != "" {
			t.Errorf("%s: have %+v %+v, want code %q", tt.name, f.Error, f.Subscribed, tt.code)
		}
	}
	// Many that do not exist, on several connections: waiting for them is
	// bounded, and does not take the place of those that do exist.
	first, second := r.dial("/v1/ws"), r.dial("/v1/ws")
	first.send(`{"id":1,"subscribe":{"topics":[` + list(0, 250) + `]}}`)
	if f := first.next(); f.Subscribed == nil {
		t.Fatalf("have %+v, want subscribed", f.Error)
	}
	second.send(`{"id":2,"subscribe":{"topics":[` + list(1000, 1250) + `]}}`)
	if f := second.next(); f.Error == nil || f.Error.Code != wire.CodeUnavailable || !f.Error.Retryable {
		t.Fatalf("have %+v, want a retryable error unavailable", f)
	}
	counted(t, r.gw.server.metrics.frames, "unavailable", 1)
	for i := range 60 {
		r.event(fmt.Sprintf("real.n%d", i), "1")
	}
	second.send(`{"id":3,"subscribe":{"topics":["real.n59"]}}`)
	if f := second.until("a value", func(f wire.ServerFrame) bool { return f.Event != nil }); f.Event.Topic != "real.n59" {
		t.Errorf("have %+v", f.Event)
	}
	first.ws.Close()
	eventually(t, "nobody waits any more", func() bool {
		return r.gw.Status().TopicsWaited <= 1
	})
	second.send(`{"id":4,"subscribe":{"topics":[` + list(1000, 1250) + `]}}`)
	second.until("it is taken now", func(f wire.ServerFrame) bool { return f.ID == 4 && f.Subscribed != nil })
}

// A client of server-sent events that talks is no such client.
func TestSSETalks(t *testing.T) {
	r := newRig(t, nil)
	nc, err := net.Dial("tcp", r.gw.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	fmt.Fprint(nc, "GET /v1/events?topics=a.b HTTP/1.1\r\nHost: x\r\n\r\n")
	nc.SetDeadline(time.Now().Add(patience))
	head := make([]byte, 15)
	if _, err := io.ReadFull(nc, head); err != nil {
		t.Fatal(err)
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		io.CopyN(nc, zeros{}, 1<<20) // as far as the gateway reads on
	}()
	b, _ := io.ReadAll(nc)
	<-sent
	if !bytes.Contains(b, []byte(`"code":1002`)) {
		t.Errorf("have %q, want the close event", b)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
