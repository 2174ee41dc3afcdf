// Package sourcetest holds the tests that every driver must pass, whatever its
// protocol. The poller relies on these outcomes and on nothing else of a driver.
//
// The upstreams are real servers on loopback sockets. The test of a driver
// describes how its protocol answers (Protocol, or HTTP for a driver over HTTP)
// and calls Run. authority.go and secure.go are for tests of TLS.
package sourcetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
)

// Protocol is a driver under test.
type Protocol struct {
	Driver source.Driver
	Call   source.Call
	Batch  bool // the endpoints' setting
	// Serve starts an upstream that treats each call as act returns, for as long
	// as the test runs. It returns the URL to open, and a function that counts
	// the connections so far.
	Serve func(t *testing.T, act func(authorization string) Act) (url string, conns func() int)
	// Named returns the URL of an address, "host:port".
	Named func(address string) string
}

// Act is what an upstream does with a call.
type Act int

// The acts of an upstream.
const (
	Answer    Act = iota // answer with Value
	Slow                 // answer with Value after Brief
	Hang                 // do not answer
	Huge                 // send an answer that does not end within 100 MiB
	WrongType            // answer what the protocol does not allow
	Fail                 // report an error of the upstream, with Secret in its text
	Busy                 // ask for a pause of RetryAfter
	Reject               // report that the request is wrong, with Secret in its text
)

// Value is the value of every answer. RetryAfter is the pause that a busy
// upstream asks for.
const (
	Value      = `{"n":[1.50,"ü"]}`
	RetryAfter = 7 * time.Second
)

const (
	// maxAnswer is the limit of the endpoints under test.
	maxAnswer = 64 << 10
	// Brief is the time for calls that must run out of it. ample is the time for
	// all others: no test depends on the speed of the machine.
	Brief = 300 * time.Millisecond
	ample = 20 * time.Second
	// Secret must not appear in any error.
	Secret = "hunter22-sesame"
)

// Run runs the suite.
func Run(t *testing.T, p Protocol) {
	t.Run("success", func(t *testing.T) { success(t, p) })
	t.Run("together", func(t *testing.T) { together(t, p) })
	t.Run("cancelled", func(t *testing.T) { cancelled(t, p) })
	for _, tt := range []failureCase{
		{name: "hang", url: p.always(Hang), reason: event.Timeout, counts: true},
		{name: "refuse", url: func(*testing.T) string { return p.Named(nobody()) }, reason: event.UpstreamError,
			counts: true, detail: "connection refused"},
		{name: "reset", url: p.raw(func(c *net.TCPConn) { _ = c.SetLinger(0) }), reason: event.UpstreamError, counts: true},
		{name: "close", url: p.raw(func(*net.TCPConn) {}), reason: event.UpstreamError, counts: true},
		{name: "garbage", url: p.raw(garbage), reason: event.BadResponse, counts: true},
		{name: "silence", url: p.raw(func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }), reason: event.Timeout,
			counts: true},
		{name: "huge", url: p.always(Huge), reason: event.BadResponse, counts: true, detail: "answer is longer than 64 KiB"},
		{name: "wrong type", url: p.always(WrongType), reason: event.BadResponse, counts: true},
		{name: "fail", url: p.always(Fail), reason: event.UpstreamError, counts: true},
		{name: "busy", url: p.always(Busy), reason: event.UpstreamError, counts: true, retryAfter: RetryAfter},
		{name: "reject", url: p.always(Reject), reason: event.RequestRejected},
	} {
		t.Run(tt.name, func(t *testing.T) { p.fails(t, tt) })
	}
}

type failureCase struct {
	name       string
	url        func(*testing.T) string
	reason     event.Reason
	counts     bool
	retryAfter time.Duration
	detail     string // the beginning of the failure's detail
}

// fails makes a call and compares its failure.
func (p Protocol) fails(t *testing.T, tt failureCase) {
	allowed := ample
	if tt.reason == event.Timeout {
		allowed = Brief
	}
	call := p.open(t, tt.url(t))
	start := time.Now()
	v, err := p.ask(t, call, allowed)
	f, ok := errors.AsType[*source.Failure](err)
	if !ok {
		t.Fatalf("value %s, error %v; want a failure", v, err)
	}
	if f.Reason != tt.reason || f.Counts != tt.counts || !strings.HasPrefix(f.Detail, tt.detail) {
		t.Errorf("have %s, counts %v (%s); want %s, counts %v (%s)", f.Reason, f.Counts, f.Detail, tt.reason, tt.counts,
			tt.detail)
	}
	if f.RetryAfter != tt.retryAfter {
		t.Errorf("retry after %v, want %v", f.RetryAfter, tt.retryAfter)
	}
	if f.Detail == "" || len(f.Detail) > event.MaxDetail || strings.ContainsAny(f.Detail, "\r\n") ||
		strings.Contains(f.Detail, Secret) {
		t.Errorf("detail %q: one line of at most %d bytes without secrets is wanted", f.Detail, event.MaxDetail)
	}
	if took := time.Since(start); tt.reason == event.Timeout && took > ample/2 {
		t.Errorf("a call of %v ended after %v", allowed, took)
	}
}

// success checks plain and slow answers over a kept connection, with the
// endpoint's headers.
func success(t *testing.T, p Protocol) {
	var n atomic.Int64
	url, conns := p.Serve(t, func(authorization string) Act {
		if authorization != "Bearer "+Secret {
			t.Errorf("authorization %q", authorization)
		}
		if n.Add(1) == 2 {
			return Slow
		}
		return Answer
	})
	call := p.open(t, url)
	var first string
	for _, what := range []string{"plain", "slow", "again"} {
		v, err := p.ask(t, call, ample)
		var have struct{ N []any }
		if err != nil || json.Unmarshal([]byte(v), &have) != nil || fmt.Sprint(have.N) != "[1.5 ü]" {
			t.Errorf("%s: %s, %v", what, v, err)
		}
		if first == "" {
			first = v
		}
		if v != first {
			t.Errorf("%s: %s, which was %s before", what, v, first)
		}
	}
	if n := conns(); n != 1 {
		t.Errorf("%d connections for calls one after the other, want 1", n)
	}
}

// together checks that calls of several goroutines do not disturb each other.
func together(t *testing.T, p Protocol) {
	url, _ := p.Serve(t, func(string) Act { return Answer })
	call := p.open(t, url)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 8 {
				if v, err := p.ask(t, call, ample); err != nil || !strings.Contains(v, "ü") {
					t.Errorf("%s, %v", v, err)
				}
			}
		})
	}
	wg.Wait()
}

// cancelled checks a cancellation before and during the call. Neither is a
// failure of the upstream.
func cancelled(t *testing.T, p Protocol) {
	began := make(chan struct{}, 1)
	url, _ := p.Serve(t, func(string) Act {
		select {
		case began <- struct{}{}:
		default:
		}
		return Hang
	})
	call := p.open(t, url)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-began; cancel() }()
	for _, when := range []string{"during the call", "before the call"} {
		v, err := call(ctx, p.Call)
		if _, ok := errors.AsType[*source.Failure](err); ok || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled %s: %s, %v; want the cancellation", when, v, err)
		}
	}
}

func (p Protocol) always(a Act) func(*testing.T) string {
	return func(t *testing.T) string {
		url, _ := p.Serve(t, func(string) Act { return a })
		return url
	}
}

// raw starts an upstream that reads the beginning of a request, calls f with the
// connection, and closes it.
func (p Protocol) raw(f func(*net.TCPConn)) func(*testing.T) string {
	return func(t *testing.T) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var conns sync.WaitGroup
		conns.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				conns.Go(func() {
					defer c.Close()
					_, _ = c.Read(make([]byte, 4<<10))
					f(c.(*net.TCPConn))
				})
			}
		})
		t.Cleanup(func() {
			_ = ln.Close()
			conns.Wait()
		})
		return p.Named(ln.Addr().String())
	}
}

// garbage answers in another protocol. It waits for the client to close first,
// because closing could discard the answer.
func garbage(c *net.TCPConn) {
	_, _ = io.WriteString(c, "220 smtp.example ESMTP "+Secret+"\r\n")
	_ = c.CloseWrite()
	_ = c.SetReadDeadline(time.Now().Add(ample / 4))
	_, _ = io.Copy(io.Discard, c)
}

func (p Protocol) open(t *testing.T, url string) source.Func {
	t.Helper()
	call, free, err := p.Driver.Open(source.Endpoint{
		URL: url, MaxAnswer: maxAnswer, Batch: p.Batch, Secrets: []string{Secret},
		Header: http.Header{"Authorization": {"Bearer " + Secret}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(free)
	return call
}

func (p Protocol) ask(t *testing.T, call source.Func, allowed time.Duration) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), allowed)
	defer cancel()
	v, err := call(ctx, p.Call)
	return string(v), err
}

// nobody returns an address at which nothing listens.
func nobody() string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "127.0.0.1:1"
	}
	_ = ln.Close()
	return ln.Addr().String()
}
