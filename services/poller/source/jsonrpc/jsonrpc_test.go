package jsonrpc

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/sourcetest"
)

// openAt returns a call to an upstream with a limit of 64 KiB.
func openAt(t *testing.T, url string, change ...func(*source.Endpoint)) source.Func {
	t.Helper()
	e := source.Endpoint{URL: url, MaxAnswer: 64 << 10}
	for _, f := range change {
		f(&e)
	}
	call, free, err := Driver.Open(e)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(free)
	return call
}

// reply answers every call with a body in which %d is the call's id.
func reply(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q struct{ ID int }
		_ = json.NewDecoder(r.Body).Decode(&q)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, strings.ReplaceAll(body, "%d", fmt.Sprint(q.ID)))
	}
}

func ask(t *testing.T, call source.Func) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	v, err := call(ctx, source.Call{Method: "m"})
	return string(v), err
}

func TestValue(t *testing.T) {
	var got atomic.Pointer[string]
	url := sourcetest.Serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s := r.Method + " " + r.Header.Get("Content-Type") + " " + r.Header.Get("Authorization") + " " + string(body)
		got.Store(&s)
		if r.Header["Idempotency-Key"] != nil {
			t.Error("Idempotency-Key was sent")
		}
		// Some servers compress, leave out the version, and send a null error.
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, ` {"id":1, "error":null, "result": {"a" : 1.50} } `)
		_ = z.Close()
	})
	call := openAt(t, url, func(e *source.Endpoint) { e.Header = http.Header{"Authorization": {"Bearer x"}} })
	v, err := call(t.Context(), source.Call{Method: "a<b", Params: json.RawMessage(`["token:x",{}]`)})
	if err != nil || string(v) != `{"a" : 1.50}` {
		t.Fatalf("value %s, error %v", v, err)
	}
	const want = `POST application/json Bearer x {"jsonrpc":"2.0","id":1,"method":"a\u003cb","params":["token:x",{}]}`
	if have := *got.Load(); have != want {
		t.Errorf("request\n%s, want\n%s", have, want)
	}
}

// Parameters are sent as they are: by position, by name, or none.
func TestParams(t *testing.T) {
	call := openAt(t, sourcetest.Serve(t, func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			ID     int
			Params json.RawMessage
		}
		_ = json.NewDecoder(r.Body).Decode(&q)
		if q.Params == nil {
			q.Params = json.RawMessage(`"none"`)
		}
		_, _ = fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%d,"result":%s}`, q.ID, q.Params)
	}))
	for _, params := range []string{`[1,"a",null]`, `{"state":"open","ids":[1,2]}`, `[]`, `{}`, ``} {
		c, want := source.Call{Method: "m", Params: json.RawMessage(params)}, params
		if params == "" {
			c.Params, want = nil, `"none"`
		}
		if v, err := call(t.Context(), c); err != nil || string(v) != want {
			t.Errorf("params %s: %s, %v", params, v, err)
		}
	}
}

func TestFailures(t *testing.T) {
	const up, bad, rej, out = event.UpstreamError, event.BadResponse, event.RequestRejected, event.Timeout
	for _, tt := range []struct {
		name   string
		h      http.HandlerFunc
		reason event.Reason
		counts bool
		detail string
	}{
		{"html", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "<!DOCTYPE html><title>nginx</title>")
		}, bad, true, "answer is HTML, not JSON"},
		{"html 502", reply(502, "<html>"), up, true, "HTTP 502 Bad Gateway"},
		{"xml", reply(200, "<?xml version='1.0'?>"), bad, true, "answer is XML, not JSON"},
		{"half", reply(200, `{"jsonrpc":"2.0","id":%d,"resu`), bad, true,
			"answer is cut off: its JSON ends early, after 29 bytes"},
		{"text", reply(200, `pong`), bad, true, "answer is not JSON: invalid character 'p' looking for beginning of value"},
		{"empty", reply(200, ``), bad, true, "answer is empty"},
		{"204", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, bad, true, "answer is empty"},
		{"list", reply(200, `[]`), bad, true, "answer is a JSON array, an object was expected"},
		{"number", reply(200, `17`), bad, true, "answer is a JSON number, an object was expected"},
		{"two", reply(200, `{"id":%d,"result":1}{}`), bad, true,
			"answer is not JSON: invalid character '{' after top-level value"},
		{"wrong id", reply(200, `{"jsonrpc":"2.0","id":7,"result":1}`), bad, true, "id 7 answered, 1 expected"},
		{"text id", reply(200, `{"jsonrpc":"2.0","id":"%d","result":1}`), bad, true, `id "1" answered, 1 expected`},
		{"no id", reply(200, `{"jsonrpc":"2.0","result":1}`), bad, true, "answer has no id, 1 expected"},
		{"version", reply(200, `{"jsonrpc":"3.0","id":%d,"result":1}`), bad, true, `answer says jsonrpc "3.0", not 2.0`},
		{"neither", reply(200, `{"jsonrpc":"2.0","id":%d}`), bad, true, "answer has neither result nor error"},
		{"odd error", reply(200, `{"jsonrpc":"2.0","id":%d,"error":"no"}`), bad, true,
			"answer's error is no JSON-RPC error object"},
		{"not UTF-8", reply(200, "{\"jsonrpc\":\"2.0\",\"id\":%d,\"result\":\"\xff\"}"), bad, true, "answer is not UTF-8"},
		{"encoding", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			_, _ = io.WriteString(w, "x")
		}, bad, true, `answer is encoded as "br", which was not asked for`},
		{"not gzip", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, "not compressed at all")
		}, bad, true, "answer cannot be decompressed: gzip: invalid header"},
		{"too long, announced", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "104857600")
			_, _ = w.Write(make([]byte, 1000))
		}, bad, true, "answer is longer than 64 KiB"},
		{"bomb", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write(make([]byte, 1<<20))
			_ = z.Close()
		}, bad, true, "answer is longer than 64 KiB"},

		{"-32600", reply(200, `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Invalid Request"}}`), rej, false,
			"JSON-RPC error -32600: Invalid Request"},
		{"-32601", reply(200, `{"jsonrpc":"2.0","id":%d,"error":{"code":-32601,"message":"Method not found"}}`), rej, false,
			"JSON-RPC error -32601: Method not found"},
		{"-32602 as 500", reply(500, `{"jsonrpc":"2.0","id":%d,"error":{"code":-32602,"message":"Invalid params"}}`), rej,
			false, "JSON-RPC error -32602: Invalid params"},
		{"-32603", reply(200, `{"jsonrpc":"2.0","id":%d,"error":{"code":-32603,"message":"Internal error"}}`), up, true,
			"JSON-RPC error -32603: Internal error"},
		{"-32700", reply(200, `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}`), up, true,
			"JSON-RPC error -32700: Parse error"},
		{"-32000", reply(200, `{"jsonrpc":"2.0","id":%d,"error":{"code":-32000,"message":"header\nnot found"}}`), up, true,
			"JSON-RPC error -32000: header not found"},
		{"application", reply(200, `{"jsonrpc":"2.0","id":%d,"error":{"code":1,"message":"busy"}}`), up, true,
			"JSON-RPC error 1: busy"},
		{"1 as 400", reply(400, `{"jsonrpc":"2.0","id":%d,"error":{"code":1,"message":"Unauthorized"}}`), rej, false,
			"HTTP 400 Bad Request, JSON-RPC error 1: Unauthorized"},

		{"401", reply(401, ``), rej, false, "HTTP 401 Unauthorized"},
		{"404", reply(404, `not found`), rej, false, "HTTP 404 Not Found"},
		{"408", reply(408, ``), up, true, "HTTP 408 Request Timeout"},
		{"429", reply(429, `{"jsonrpc":"2.0","id":%d,"error":{"code":-32005,"message":"limit"}}`), up, true,
			"HTTP 429 Too Many Requests, JSON-RPC error -32005: limit"},
		{"500", reply(500, ``), up, true, "HTTP 500 Internal Server Error"},
		{"503", reply(503, `{"status":"down"}`), up, true, "HTTP 503 Service Unavailable"},
		{"599", reply(599, ``), up, true, "HTTP 599"},
		{"value with 500", reply(500, `{"jsonrpc":"2.0","id":%d,"result":1}`), up, true, "HTTP 500 Internal Server Error"},
		{"redirect loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) },
			bad, true,
			"HTTP 302 Found: redirects are not followed"},

		{"hang", func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // or the server does not notice that the client has gone
			<-r.Context().Done()
		}, out, true, "no answer within "},
		{"drip", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, `{"jsonrpc":`)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, out, true, "answer not complete within "},
		{"closed", hijack(func(net.Conn) {}), up, true, "connection closed without an answer"},
		{"reset", hijack(func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }), up, true, "connection reset"},
		{"broken off", hijack(func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"id\"")
		}), up, true, "connection broke off after 5 bytes of the answer"},
		{"not HTTP", hijack(func(c net.Conn) { _, _ = io.WriteString(c, "220 smtp.example ESMTP\r\n") }), bad, true,
			"answer is not HTTP"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			call := openAt(t, sourcetest.Serve(t, tt.h))
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			if tt.reason != out {
				ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
			}
			defer cancel()
			v, err := call(ctx, source.Call{Method: "m"})
			f, ok := errors.AsType[*source.Failure](err)
			if !ok {
				t.Fatalf("value %s, error %v, want a failure", v, err)
			}
			if f.Reason != tt.reason || f.Counts != tt.counts || !strings.HasPrefix(f.Detail, tt.detail) {
				t.Errorf("have %s counts=%v %q\nwant %s counts=%v %q", f.Reason, f.Counts, f.Detail, tt.reason, tt.counts,
					tt.detail)
			}
		})
	}
}

// hijack gives the connection to f and closes it.
func hijack(f func(net.Conn)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		c, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			f(c)
			_ = c.Close()
		}
	}
}

// Of 100 MB the upstream can send no more than sockets hold.
func TestStreamWithoutEnd(t *testing.T) {
	sent := make(chan int, 1)
	url := sourcetest.Serve(t, func(w http.ResponseWriter, _ *http.Request) {
		n := 0
		for chunk := make([]byte, 64<<10); n < 100<<20; {
			m, err := w.Write(chunk)
			n += m
			if err != nil {
				break
			}
		}
		sent <- n
	})
	_, err := ask(t, openAt(t, url))
	if f, ok := errors.AsType[*source.Failure](err); !ok || f.Reason != event.BadResponse ||
		f.Detail != "answer is longer than 64 KiB" {
		t.Errorf("error %v", err)
	}
	if n := <-sent; n >= 100<<20 {
		t.Errorf("all %d bytes were taken", n)
	}
}

func TestNobodyThere(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	for _, tt := range []struct{ url, detail string }{
		{"http://" + ln.Addr().String() + "/v3/secretkey", "connection refused"},
		{"http://nowhere.invalid/", `host name "nowhere.invalid"`},
		{"https://" + strings.TrimPrefix(sourcetest.Serve(t, reply(200, "")), "http://"),
			"upstream speaks plain HTTP, not HTTPS"},
	} {
		_, err := ask(t, openAt(t, tt.url))
		f, ok := errors.AsType[*source.Failure](err)
		if !ok || !f.Counts || !strings.HasPrefix(f.Detail, tt.detail) || strings.Contains(f.Detail, "secretkey") {
			t.Errorf("%s: %v, want %q", tt.url, err, tt.detail)
		}
	}
	s := httptest.NewUnstartedServer(reply(200, ""))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	_, err = ask(t, openAt(t, s.URL))
	if f, ok := errors.AsType[*source.Failure](err); !ok ||
		!strings.HasPrefix(f.Detail, "TLS: the upstream's certificate is signed by an unknown authority, \"O=Acme Co\"") {
		t.Errorf("unknown certificate: %v", err)
	}
}

func TestCancelled(t *testing.T) {
	began := make(chan struct{})
	call := openAt(t, sourcetest.Serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		close(began)
		<-r.Context().Done()
	}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-began; cancel() }()
	if _, err := call(ctx, source.Call{Method: "m"}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the cancellation", err)
	}
}

func TestSecretsStayHidden(t *testing.T) {
	call := openAt(t, sourcetest.Serve(t, reply(200,
		`{"jsonrpc":"2.0","id":%d,"error":{"code":-32602,"message":"bad token:hunter22 and `+strings.Repeat("x", 999)+
			`"}}`)),
		func(e *source.Endpoint) { e.Secrets = []string{"token:hunter22", "hunter22"} })
	_, err := ask(t, call)
	f, _ := errors.AsType[*source.Failure](err)
	if f == nil || strings.Contains(f.Detail, "hunter22") || !strings.Contains(f.Detail, "[redacted]") ||
		len(f.Detail) > event.MaxDetail {
		t.Errorf("error %v", err)
	}
}

func TestRetryAfter(t *testing.T) {
	_, err := ask(t, openAt(t, sourcetest.Serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(503)
	})))
	if f, _ := errors.AsType[*source.Failure](err); f == nil || f.RetryAfter != 30*time.Second {
		t.Errorf("error %v", err)
	}
}

// An upstream that closes a kept connection just when it is used again must not
// make a good value stale.
func TestKeptConnectionDropped(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			// The server answers the first request, reads a second one and closes
			// the connection.
			r := bufio.NewReader(c)
			for i := range 2 {
				req, err := http.ReadRequest(r)
				if err != nil {
					break
				}
				var q struct{ ID int }
				_ = json.NewDecoder(req.Body).Decode(&q)
				body := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"result":1}`, q.ID)
				if i == 0 {
					_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
				}
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { // runs after the endpoint has closed its connection
		_ = ln.Close()
		<-done
	})
	call := openAt(t, "http://"+ln.Addr().String())
	for i := range 10 {
		if v, err := ask(t, call); err != nil || v != "1" {
			t.Fatalf("call %d: %s, %v", i, v, err)
		}
	}
}

func TestCheck(t *testing.T) {
	have := ""
	check(source.Call{Method: "m", Path: "x", Query: url.Values{"a": nil}, Header: http.Header{"A": nil},
		Body: json.RawMessage("1")},
		func(key, problem, fix string) { have += key + " " })
	if have != "path query headers body " {
		t.Errorf("mistakes at %q", have)
	}
}
