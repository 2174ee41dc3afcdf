package sourcetest

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
)

// HTTP is a driver under test that speaks HTTP/1.1.
type HTTP struct {
	Driver source.Driver
	Call   source.Call
	Batch  bool // the endpoints' setting
	// Body is an answer that carries a value.
	Body func(r *http.Request, value string) string
	// WrongType is an answer that is JSON, but no answer of the protocol; empty
	// if the protocol takes all JSON.
	WrongType string
}

// RunHTTP runs the suite and the tests that only HTTP has.
func RunHTTP(t *testing.T, h HTTP) {
	p := Protocol{Driver: h.Driver, Call: h.Call, Batch: h.Batch, Serve: h.serve,
		Named: func(address string) string { return "http://" + address + "/" }}
	Run(t, p)
	t.Run("compressed", func(t *testing.T) { h.compressed(t, p) })
	t.Run("redirect", func(t *testing.T) { redirect(t, p) })
	t.Run("without end", func(t *testing.T) { endless(t, p) })
	for _, tt := range h.failures() {
		t.Run(tt.name, func(t *testing.T) { p.fails(t, tt) })
	}
}

func (h HTTP) serve(t *testing.T, act func(string) Act) (string, func() int) {
	var conns atomic.Int64
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		switch act(r.Header.Get("Authorization")) {
		case Hang:
			hang("")(w, r)
		case Huge:
			flood(w, r)
		case WrongType:
			if h.WrongType == "" {
				_, _ = io.WriteString(w, "\x00\xff pong "+Secret)
				return
			}
			reply(200, h.WrongType)(w, r)
		case Fail:
			reply(500, Secret)(w, r)
		case Busy:
			later(503)(w, r)
		case Reject:
			reply(400, Secret)(w, r)
		case Slow:
			body := h.Body(r, Value)
			time.Sleep(Brief)
			_, _ = io.WriteString(w, body)
		default:
			_, _ = io.WriteString(w, h.Body(r, Value))
		}
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s.URL, func() int { return int(conns.Load()) }
}

func (h HTTP) failures() []failureCase {
	const up, bad, rej, out = event.UpstreamError, event.BadResponse, event.RequestRejected, event.Timeout
	return []failureCase{
		{name: "hang in the answer", url: serve(hang(`{"a`)), reason: out, counts: true},
		{name: "break off", url: serve(hijack(func(c *net.TCPConn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"id\"")
		})), reason: up, counts: true},
		{name: "binary", url: serve(reply(200, "\x00\xff pong "+Secret)), reason: bad, counts: true},
		{name: "HTML", url: serve(reply(200, "<!DOCTYPE html><title>"+Secret+"</title>")), reason: bad, counts: true},
		{name: "half an answer", url: serve(func(w http.ResponseWriter, r *http.Request) {
			whole := h.Body(r, `{"a":"b"}`)
			_, _ = io.WriteString(w, whole[:len(whole)-3])
		}), reason: bad, counts: true},
		{name: "not UTF-8", url: serve(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, h.Body(r, "\"\xff\""))
		}), reason: bad, counts: true},
		{name: "empty", url: serve(reply(200, "")), reason: bad, counts: true},
		{name: "429 with Retry-After", url: serve(later(429)), reason: up, counts: true, retryAfter: RetryAfter},
		{name: "408", url: serve(reply(408, "")), reason: up, counts: true},
		{name: "401", url: serve(reply(401, "")), reason: rej},
		{name: "404", url: serve(reply(404, "<html>")), reason: rej},
		{name: "strange encoding", url: serve(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			_, _ = io.WriteString(w, "x")
		}), reason: bad, counts: true},
		{name: "broken gzip", url: serve(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, "not compressed at all")
		}), reason: bad, counts: true},
		{name: "bomb", url: serve(func(w http.ResponseWriter, r *http.Request) {
			zip(w, h.Body(r, `"`+strings.Repeat(" ", 100*maxAnswer)+`"`))
		}), reason: bad, counts: true},
	}
}

func (h HTTP) compressed(t *testing.T, p Protocol) {
	url := serve(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			t.Error("no gzip asked for")
		}
		zip(w, h.Body(r, Value))
	})(t)
	if v, err := p.ask(t, p.open(t, url), ample); err != nil || !strings.Contains(v, "ü") {
		t.Errorf("%s, %v", v, err)
	}
}

// redirect checks that a redirect is not followed and the credentials are not
// sent elsewhere.
func redirect(t *testing.T, p Protocol) {
	var visited atomic.Bool
	other := serve(func(http.ResponseWriter, *http.Request) { visited.Store(true) })(t)
	for _, status := range []int{301, 302, 307, 308} {
		_, err := p.ask(t, p.open(t, serve(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other+"/"+Secret, status)
		})(t)), ample)
		if f, ok := errors.AsType[*source.Failure](err); !ok || f.Reason != event.BadResponse || !f.Counts ||
			!strings.HasSuffix(f.Detail, "redirects are not followed, this one leads to "+other) {
			t.Errorf("%d: %v", status, err)
		}
	}
	if visited.Load() {
		t.Error("a redirect was followed")
	}
}

const most = 100 << 20

// flood writes an answer of at most most bytes, as many as the client takes.
func flood(w http.ResponseWriter, r *http.Request) (sent int) {
	_, _ = io.Copy(io.Discard, r.Body)
	for chunk := []byte(strings.Repeat(" ", 64<<10)); sent < most; {
		m, err := w.Write(chunk)
		sent += m
		if err != nil {
			break
		}
	}
	return sent
}

// endless checks that an answer without end is not read, with and without a
// Content-Length.
func endless(t *testing.T, p Protocol) {
	for _, announced := range []bool{false, true} {
		sent := make(chan int, 1)
		url := serve(func(w http.ResponseWriter, r *http.Request) {
			if announced {
				w.Header().Set("Content-Length", fmt.Sprint(most))
			}
			sent <- flood(w, r)
		})(t)
		_, err := p.ask(t, p.open(t, url), ample)
		if f, ok := errors.AsType[*source.Failure](err); !ok || f.Reason != event.BadResponse || !f.Counts ||
			!strings.Contains(f.Detail, "64 KiB") {
			t.Errorf("announced %v: %v", announced, err)
		}
		if n := <-sent; n >= most {
			t.Errorf("announced %v: all %d bytes were taken", announced, n)
		}
	}
}

// Serve starts an upstream over HTTP and returns its URL. It ends with the test.
func Serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func serve(h http.HandlerFunc) func(*testing.T) string {
	return func(t *testing.T) string { return Serve(t, h) }
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
		w.Header().Set("Retry-After", fmt.Sprint(RetryAfter.Seconds()))
		w.WriteHeader(status)
	}
}

// hang sends the beginning of an answer, if any, and then nothing more.
func hang(beginning string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or the server does not notice that the client has gone
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
