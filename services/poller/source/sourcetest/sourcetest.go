// Package sourcetest holds what every driver must pass, whatever its protocol:
// the poller relies on these outcomes, and on nothing else of a driver.
//
// The upstreams are real servers on loopback sockets. A driver's own test says
// how its protocol answers (Protocol) and calls Run.
package sourcetest

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
)

// Protocol is a driver under test. It speaks HTTP.
type Protocol struct {
	Driver source.Driver
	Call   source.Call
	Batch  bool // the endpoints' setting
	// Answer is the body of an answer that carries a value.
	Answer func(r *http.Request, value string) string
	// WrongType is an answer that is JSON, but no answer of the protocol; empty
	// if the protocol takes all JSON.
	WrongType string
}

const (
	// maxAnswer is the limit of the endpoints under test.
	maxAnswer = 64 << 10
	// brief is the time for calls that are to run out of it, ample that of all
	// others: nothing depends on how fast the machine is.
	brief = 300 * time.Millisecond
	ample = 20 * time.Second

	secret = "hunter22-sesame"
)

// Run runs the suite.
func Run(t *testing.T, p Protocol) {
	t.Run("success", func(t *testing.T) { success(t, p) })
	t.Run("together", func(t *testing.T) { together(t, p) })
	t.Run("cancelled", func(t *testing.T) { cancelled(t, p) })
	t.Run("redirect", func(t *testing.T) { redirect(t, p) })
	t.Run("huge", func(t *testing.T) { huge(t, p) })
	for _, tt := range p.failures() {
		t.Run(tt.name, func(t *testing.T) {
			url := tt.url
			if url == "" {
				url = serve(t, tt.handler)
			}
			allowed := ample
			if tt.reason == event.Timeout {
				allowed = brief
			}
			start := time.Now()
			v, err := p.ask(t, p.open(t, url), allowed)
			f, ok := errors.AsType[*source.Failure](err)
			if !ok {
				t.Fatalf("value %s, error %v; want a failure", v, err)
			}
			if f.Reason != tt.reason || f.Counts != tt.counts {
				t.Errorf("have %s, counts %v (%s); want %s, counts %v", f.Reason, f.Counts, f.Detail, tt.reason, tt.counts)
			}
			if f.RetryAfter != tt.retryAfter {
				t.Errorf("retry after %v, want %v", f.RetryAfter, tt.retryAfter)
			}
			if f.Detail == "" || len(f.Detail) > event.MaxDetail || strings.ContainsAny(f.Detail, "\r\n") || strings.Contains(f.Detail, secret) {
				t.Errorf("detail %q: one line of at most %d bytes without secrets is wanted", f.Detail, event.MaxDetail)
			}
			if took := time.Since(start); tt.reason == event.Timeout && took > ample/2 {
				t.Errorf("a call of %v ended after %v", allowed, took)
			}
		})
	}
}

type failureCase struct {
	name       string
	handler    http.HandlerFunc
	url        string // instead of a handler
	reason     event.Reason
	counts     bool
	retryAfter time.Duration
}

func (p Protocol) failures() []failureCase {
	const up, bad, rej, out = event.UpstreamError, event.BadResponse, event.RequestRejected, event.Timeout
	all := []failureCase{
		{name: "hang", handler: hang(""), reason: out, counts: true},
		{name: "hang in the answer", handler: hang(`{"a`), reason: out, counts: true},
		{name: "refuse", url: nobody(), reason: up, counts: true},
		{name: "reset", handler: hijack(func(c *net.TCPConn) { _ = c.SetLinger(0) }), reason: up, counts: true},
		{name: "close", handler: hijack(func(*net.TCPConn) {}), reason: up, counts: true},
		{name: "break off", handler: hijack(func(c *net.TCPConn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"id\"")
		}), reason: up, counts: true},
		{name: "garbage", handler: reply(200, "\x00\xff pong "+secret), reason: bad, counts: true},
		{name: "garbage instead of HTTP", handler: hijack(func(c *net.TCPConn) { _, _ = io.WriteString(c, "220 smtp.example ESMTP\r\n") }), reason: bad, counts: true},
		{name: "HTML", handler: reply(200, "<!DOCTYPE html><title>"+secret+"</title>"), reason: bad, counts: true},
		{name: "half an answer", handler: func(w http.ResponseWriter, r *http.Request) {
			whole := p.Answer(r, `{"a":"b"}`)
			_, _ = io.WriteString(w, whole[:len(whole)-3])
		}, reason: bad, counts: true},
		{name: "not UTF-8", handler: func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, p.Answer(r, "\"\xff\""))
		}, reason: bad, counts: true},
		{name: "empty", handler: reply(200, ""), reason: bad, counts: true},
		{name: "500", handler: reply(500, secret), reason: up, counts: true},
		{name: "503 with Retry-After", handler: later(503), reason: up, counts: true, retryAfter: 7 * time.Second},
		{name: "429 with Retry-After", handler: later(429), reason: up, counts: true, retryAfter: 7 * time.Second},
		{name: "408", handler: reply(408, ""), reason: up, counts: true},
		{name: "400", handler: reply(400, secret), reason: rej},
		{name: "401", handler: reply(401, ""), reason: rej},
		{name: "404", handler: reply(404, "<html>"), reason: rej},
		{name: "strange encoding", handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			_, _ = io.WriteString(w, "x")
		}, reason: bad, counts: true},
		{name: "broken gzip", handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, "not compressed at all")
		}, reason: bad, counts: true},
		{name: "bomb", handler: func(w http.ResponseWriter, r *http.Request) {
			zip(w, p.Answer(r, `"`+strings.Repeat(" ", 100*maxAnswer)+`"`))
		}, reason: bad, counts: true},
	}
	if p.WrongType != "" {
		all = append(all, failureCase{name: "wrong type", handler: reply(200, p.WrongType), reason: bad, counts: true})
	}
	return all
}

// success: plain, slow and compressed answers, over a kept connection, with the
// endpoint's headers.
func success(t *testing.T, p Protocol) {
	var n, conns atomic.Int64
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := p.Answer(r, `{"n":[1.50,"ü"]}`)
		if have := r.Header.Get("Authorization"); have != "Bearer "+secret {
			t.Errorf("header %q", have)
		}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		switch n.Add(1) {
		case 2:
			time.Sleep(brief)
			_, _ = io.WriteString(w, body)
		case 3:
			if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
				t.Error("no gzip asked for")
			}
			zip(w, body)
		default:
			_, _ = io.WriteString(w, body)
		}
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	call := p.open(t, s.URL)
	for _, what := range []string{"plain", "slow", "compressed", "again"} {
		v, err := p.ask(t, call, ample)
		var have struct{ N []any }
		if err != nil || json.Unmarshal([]byte(v), &have) != nil || fmt.Sprint(have.N) != "[1.5 ü]" {
			t.Errorf("%s: %s, %v", what, v, err)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for calls one after the other, want 1", n)
	}
}

// together: calls of several goroutines do not meet.
func together(t *testing.T, p Protocol) {
	call := p.open(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, p.Answer(r, `true`))
	}))
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 8 {
				if v, err := p.ask(t, call, ample); err != nil || v != "true" {
					t.Errorf("%s, %v", v, err)
				}
			}
		})
	}
	wg.Wait()
}

// cancelled: before the call and during it; neither is the upstream's failure.
func cancelled(t *testing.T, p Protocol) {
	began := make(chan struct{}, 1)
	wait := hang("")
	call := p.open(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		wait(w, r)
	}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-began; cancel() }()
	for _, when := range []string{"during the call", "before the call"} {
		v, err := call(ctx, p.Call)
		if _, ok := errors.AsType[*source.Failure](err); ok || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled %s: %s, %v; want the cancellation", when, v, err)
		}
	}
}

// redirect: the credentials do not go where nobody sent them.
func redirect(t *testing.T, p Protocol) {
	var visited atomic.Bool
	other := serve(t, func(http.ResponseWriter, *http.Request) { visited.Store(true) })
	for _, status := range []int{301, 302, 307, 308} {
		_, err := p.ask(t, p.open(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other, status)
		})), ample)
		if f, ok := errors.AsType[*source.Failure](err); !ok || f.Reason != event.BadResponse || !f.Counts {
			t.Errorf("%d: %v", status, err)
		}
	}
	if visited.Load() {
		t.Error("a redirect was followed")
	}
}

// huge: an answer without end is not taken, announced or not.
func huge(t *testing.T, p Protocol) {
	const most = 100 << 20
	for _, announced := range []bool{false, true} {
		sent := make(chan int, 1)
		url := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			if announced {
				w.Header().Set("Content-Length", fmt.Sprint(most))
			}
			n := 0
			for chunk := []byte(strings.Repeat(" ", 64<<10)); n < most; {
				m, err := w.Write(chunk)
				n += m
				if err != nil {
					break
				}
			}
			sent <- n
		})
		_, err := p.ask(t, p.open(t, url), ample)
		if f, ok := errors.AsType[*source.Failure](err); !ok || f.Reason != event.BadResponse || !f.Counts || !strings.Contains(f.Detail, "64 KiB") {
			t.Errorf("announced %v: %v", announced, err)
		}
		if n := <-sent; n >= most {
			t.Errorf("announced %v: all %d bytes were taken", announced, n)
		}
	}
}

func (p Protocol) open(t *testing.T, url string) source.Func {
	t.Helper()
	call, free, err := p.Driver.Open(source.Endpoint{
		URL: url, MaxAnswer: maxAnswer, Batch: p.Batch, Secrets: []string{secret},
		Header: http.Header{"Authorization": {"Bearer " + secret}},
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

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func reply(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func later(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(status)
	}
}

// hang sends the beginning of an answer, if any, and then nothing.
func hang(beginning string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or the server does not notice that the client goes
		if beginning != "" {
			_, _ = io.WriteString(w, beginning)
			w.(http.Flusher).Flush()
		}
		<-r.Context().Done()
	}
}

// hijack gives the connection to f and closes it.
func hijack(f func(*net.TCPConn)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
			f(c.(*net.TCPConn))
			_ = c.Close()
		}
	}
}

func zip(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Encoding", "gzip")
	z := gzip.NewWriter(w)
	_, _ = io.WriteString(z, body)
	_ = z.Close()
}

// nobody is an address at which nobody listens.
func nobody() string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "http://127.0.0.1:1/"
	}
	_ = ln.Close()
	return "http://" + ln.Addr().String() + "/"
}
