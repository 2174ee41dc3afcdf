package web

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
)

// nameServer is a real name server that has one address for every name.
type nameServer struct {
	address atomic.Pointer[[4]byte] // nil: no such name
	broken  atomic.Bool
	asked   atomic.Int64
}

// resolver starts the server and returns a resolver that asks it.
func (s *nameServer) resolver(t *testing.T) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer, err := s.answer(buf[:n]); err == nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func (s *nameServer) answer(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		return nil, errors.New("no question")
	}
	m.Response, m.Additionals = true, nil
	q := m.Questions[0]
	switch a := s.address.Load(); {
	case s.broken.Load():
		m.RCode = dnsmessage.RCodeServerFailure
	case a == nil:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		s.asked.Add(1)
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
			Body:   &dnsmessage.AResource{A: *a},
		}}
	}
	return m.Pack()
}

// named starts two upstreams at the same port of two addresses. Each answers with
// its own name.
func named(t *testing.T) (port string, first *httptest.Server) {
	t.Helper()
	start := func(ln net.Listener, name string) *httptest.Server {
		s := &httptest.Server{Listener: ln,
			Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = fmt.Fprintf(w, "%q", name)
			})}}
		s.Start()
		t.Cleanup(s.Close)
		return s
	}
	for {
		one, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ = net.SplitHostPort(one.Addr().String())
		two, err := net.Listen("tcp", "127.0.0.2:"+port)
		if err != nil {
			_ = one.Close() // the port is in use
			continue
		}
		start(two, "two")
		return port, start(one, "one")
	}
}

// get makes a GET of the client's URL.
func get(ctx context.Context, h *Client) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL, nil)
	if err != nil {
		return "", err
	}
	a, err := h.Do(ctx, req, nil, h.MaxAnswer)
	if err != nil {
		return "", err
	}
	return string(a.Body), nil
}

// A changed address is used when the old one fails, and in any case when the
// connections are old.
func TestDNSChanges(t *testing.T) {
	var names nameServer
	names.address.Store(&[4]byte{127, 0, 0, 1})
	port, first := named(t)
	h := New(source.Endpoint{URL: "http://upstream.test:" + port, MaxAnswer: 1 << 10, Resolver: names.resolver(t)})
	t.Cleanup(h.Close)
	ask := func() string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		v, err := get(ctx, h)
		if err != nil {
			return err.Error()
		}
		return v
	}
	for range 3 {
		if have := ask(); have != `"one"` {
			t.Fatal(have)
		}
	}
	if n := names.asked.Load(); n != 1 {
		t.Errorf("asked for the address %d times, want 1", n)
	}
	names.address.Store(&[4]byte{127, 0, 0, 2})
	h.conns.age = time.Minute
	if have := ask(); have != `"one"` {
		t.Errorf("have %s over a kept connection", have)
	}
	h.conns.renewAt.Store(time.Now().Add(-time.Second).UnixNano()) // it is old now
	if have := ask(); have != `"two"` {
		t.Errorf("have %s although the name leads elsewhere", have)
	}

	names.address.Store(&[4]byte{127, 0, 0, 1})
	h.Failed(time.Now())
	if have := ask(); have != `"one"` {
		t.Errorf("have %s after a failure", have)
	}
	names.address.Store(&[4]byte{127, 0, 0, 2})
	first.CloseClientConnections()
	first.Close()
	for limit := time.Now().Add(20 * time.Second); ; {
		have := ask()
		if have == `"two"` {
			break
		}
		if !strings.HasPrefix(have, string(event.UpstreamError)) || time.Now().After(limit) {
			t.Fatal(have)
		}
	}
}

func TestDNSFails(t *testing.T) {
	var names nameServer
	h := New(source.Endpoint{URL: "http://upstream.test:1/key", MaxAnswer: 1 << 10, Resolver: names.resolver(t)})
	t.Cleanup(h.Close)
	for _, tt := range []struct {
		broken bool
		want   string
	}{{false, `host name "upstream.test" does not exist`},
		{true, `host name "upstream.test" cannot be resolved: server misbehaving`}} {
		names.broken.Store(tt.broken)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		_, err := get(ctx, h)
		cancel()
		if f, ok := errors.AsType[*source.Failure](err); !ok || f.Detail != tt.want || f.Reason != event.UpstreamError ||
			!f.Counts {
			t.Errorf("have %v, want %s", err, tt.want)
		}
	}
	// The silence of a name server is a timeout like any other.
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	var mu sync.Mutex
	var dialled []net.Conn
	t.Cleanup(func() { // the lookup of package net outlives the call
		mu.Lock()
		defer mu.Unlock()
		for _, c := range dialled {
			_ = c.Close()
		}
	})
	h = New(source.Endpoint{URL: "http://upstream.test:1/", MaxAnswer: 1 << 10, Resolver: &net.Resolver{
		PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, "udp", silent.LocalAddr().String())
			mu.Lock()
			defer mu.Unlock()
			dialled = append(dialled, c)
			return c, err
		},
	}})
	t.Cleanup(h.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = get(ctx, h)
	if f, ok := errors.AsType[*source.Failure](err); !ok || f.Reason != event.Timeout {
		t.Errorf("have %v, want a timeout", err)
	}
}
