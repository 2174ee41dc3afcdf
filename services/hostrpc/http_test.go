package hostrpc

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const timeCall = `{"jsonrpc":"2.0","method":"system.time","id":1}`

func TestHTTPRules(t *testing.T) {
	registry := prometheus.NewRegistry()
	o := Options{Config: DefaultConfig(), Registerer: registry, Gatherer: registry}
	o.Config.MaxBodyBytes = 2048
	s := start(t, o)
	typed := func(kind string) http.Header { return http.Header{"Content-Type": {kind}} }
	with := func(pairs ...string) http.Header {
		h := typed("application/json")
		for i := 0; i < len(pairs); i += 2 {
			h.Set(pairs[i], pairs[i+1])
		}
		return h
	}
	padded := func(n int) string { return timeCall + strings.Repeat(" ", n-len(timeCall)) }
	for _, c := range []struct {
		name, method, path, body string
		header                   http.Header
		want                     int
		naming                   string // a text in the body
	}{
		{"root", "POST", "/", timeCall, with(), 200, `"result"`},
		{"jsonrpc", "POST", "/jsonrpc", timeCall, with(), 200, `"result"`},
		{"query", "POST", "/?x=1", timeCall, with(), 200, `"result"`},
		{"json-rpc type", "POST", "/", timeCall, typed("application/json-rpc"), 200, `"result"`},
		{"jsonrequest type", "POST", "/", timeCall, typed("application/jsonrequest"), 200, `"result"`},
		{"type with charset", "POST", "/", timeCall, typed(`Application/JSON; charset="UTF-8"`), 200, `"result"`},
		{"no type", "POST", "/", timeCall, nil, 200, `"result"`},
		{"form", "POST", "/", timeCall, typed("application/x-www-form-urlencoded"), 415, "send application/json"},
		{"text", "POST", "/", timeCall, typed("text/plain"), 415, "send application/json"},
		{"bad type", "POST", "/", timeCall, typed(";;"), 415, "send application/json"},
		{"other charset", "POST", "/", timeCall, typed("application/json; charset=latin1"), 415, "UTF-8"},
		{"compressed", "POST", "/", timeCall, with("Content-Encoding", "gzip"), 415, "Content-Encoding"},
		{"identity", "POST", "/", timeCall, with("Content-Encoding", "identity"), 200, `"result"`},
		{"at the limit", "POST", "/", padded(2048), with(), 200, `"result"`},
		{"above the limit", "POST", "/", padded(2049), with(), 413, "more than 2048 bytes"},
		{"far above the limit", "POST", "/", padded(1 << 20), with(), 413, "more than 2048 bytes"},
		{"get", "GET", "/", "", nil, 405, "POST"},
		{"head", "HEAD", "/jsonrpc", "", nil, 405, ""},
		{"put", "PUT", "/jsonrpc", timeCall, with(), 405, "POST"},
		{"options", "OPTIONS", "/", "", nil, 405, "POST"},
		{"elsewhere", "POST", "/rpc", timeCall, with(), 404, ""},
		{"other site", "POST", "/", timeCall, with("Sec-Fetch-Site", "cross-site"), 403, "another site"},
		{"other origin", "POST", "/", timeCall, with("Origin", "http://evil.example"), 403, "another site"},
		{"same origin", "POST", "/", timeCall, with("Sec-Fetch-Site", "same-origin"), 200, `"result"`},
		{"health", "GET", "/healthz", "", nil, 200, "ok"},
		{"health post", "POST", "/healthz", "", nil, 405, "GET"},
		{"metrics", "GET", "/metrics", "", nil, 200, "pollcast_hostrpc_requests_total"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, body, header, err := s.do(t.Context(), c.method, c.path, c.body, c.header)
			if err != nil {
				t.Fatal(err)
			}
			if status != c.want || !strings.Contains(body, c.naming) {
				t.Errorf("have %d %s, want %d naming %q", status, body, c.want, c.naming)
			}
			if status == 405 && header.Get("Allow") == "" {
				t.Error("405 without Allow")
			}
			rpc := c.path == "/" || c.path == "/jsonrpc"
			if rpc && status != 200 && c.method != "HEAD" {
				if id, fail := failure(t, body); id != "null" || fail.Code != codeInvalidRequest {
					t.Errorf("have %s, want error -32600 with id null", body)
				}
			}
		})
	}
}

func TestGzip(t *testing.T) {
	s := start(t, Options{}, func(s *Server) {
		for name, size := range map[string]int{"small": 100, "large": 5000} {
			s.methods[name] = &method{Name: name,
				call: func(context.Context, args) (any, error) { return strings.Repeat("x", size), nil }}
		}
	})
	for _, c := range []struct {
		method, accept string
		want           bool
	}{
		{"large", "gzip", true},
		{"large", "br, GZIP;q=0.5", true},
		{"large", "*", true},
		{"large", "deflate;q=1, *;q=0.1", true},
		{"large", "gzip;q=0", false},
		{"large", "gzip; q=0, *", false},
		{"large", "gzip;q=x", false},
		{"large", "*;q=0", false},
		{"large", "br", false},
		{"large", "identity", false},
		{"small", "gzip", false},
	} {
		_, body, header, err := s.do(t.Context(), "POST", "/", `{"jsonrpc":"2.0","method":"`+c.method+`","id":1}`,
			http.Header{"Accept-Encoding": {c.accept}, "Content-Type": {"application/json"}})
		if err != nil {
			t.Fatal(err)
		}
		if have := header.Get("Content-Encoding") == "gzip"; have != c.want {
			t.Errorf("%s, %s: have gzip %t, want %t", c.method, c.accept, have, c.want)
			continue
		}
		if header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("%s, %s: no Vary", c.method, c.accept)
		}
		if c.want {
			zip, err := gzip.NewReader(strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(zip)
			if err != nil {
				t.Fatal(err)
			}
			body = string(text)
		}
		if !json.Valid([]byte(body)) {
			t.Errorf("%s, %s: no JSON: %.80q", c.method, c.accept, body)
		}
	}
}

// TestUnfinishedBody checks that a client that stops in the middle gets an answer
// and is closed.
func TestUnfinishedBody(t *testing.T) {
	s := start(t, Options{}, func(s *Server) { s.http.ReadTimeout = 200 * time.Millisecond })
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusRequestTimeout {
		t.Errorf("have %s, want 408", resp.Status)
	}
}

// TestInFlightLimit fills every place with calls that wait, then makes one more.
func TestInFlightLimit(t *testing.T) {
	release := make(chan struct{})
	s := start(t, Options{}, func(s *Server) {
		s.slots = make(chan struct{}, 2)
		s.methods["wait"] = &method{Name: "wait", call: func(context.Context, args) (any, error) {
			<-release
			return nil,
				nil
		}}
	})
	done := make(chan int, 2)
	for range 2 {
		go func() {
			status, _, _, _ := s.do(context.WithoutCancel(t.Context()), "POST", "/", `{"jsonrpc":"2.0","method":"wait","id":1}`,
				nil)
			done <- status
		}()
	}
	eventually(t, "both places are taken", func() bool { return len(s.slots) == 2 })
	status, text, header := s.post(timeCall)
	if _, fail := failure(t, text); status != http.StatusServiceUnavailable || fail.Code != codeServer ||
		header.Get("Retry-After") == "" {
		t.Errorf("have %d %s, want 503 with -32000 and Retry-After", status, text)
	}
	close(release)
	for range 2 {
		if status := <-done; status != http.StatusOK {
			t.Errorf("a waiting call got %d, want 200", status)
		}
	}
	if status, text, _ := s.post(timeCall); status != http.StatusOK {
		t.Errorf("have %d %s once places are free, want 200", status, text)
	}
}

// TestMetrics checks the counts, and that callers' texts are in no label.
func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	o := faultsAllowed()
	o.Registerer = registry
	s := start(t, o)
	s.post(timeCall)
	s.post("[" + timeCall + `,{"jsonrpc":"2.0","method":"system.time"},1]`)
	s.post(`{"jsonrpc":"2.0","method":"made.up","id":1}`)
	s.post(`{"jsonrpc":"2.0","method":"process.top","params":[0],"id":1}`)
	s.post(`{`)
	s.post(`{"jsonrpc":"2.0","method":"fault.set","params":["system.time","http500"],"id":1}`)
	s.post(timeCall)

	want := map[string]float64{
		"system.time ok":              3,
		"system.time http500":         1,
		"process.top invalid_params":  1,
		"fault.set ok":                1,
		"unknown invalid_request":     1,
		"unknown method_not_found":    1,
		"unknown parse_error":         1,
		"pollcast_hostrpc_faults set": 1,
	}
	have := make(map[string]float64)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			switch f.GetName() {
			case "pollcast_hostrpc_requests_total":
				have[m.Label[0].GetValue()+" "+m.Label[1].GetValue()] = m.Counter.GetValue()
			case "pollcast_hostrpc_faults_active":
				have["pollcast_hostrpc_faults set"] = m.Gauge.GetValue()
			case "pollcast_hostrpc_request_duration_seconds":
				if m.Label[0].GetValue() == "system.time" && m.Histogram.GetSampleCount() != 4 {
					t.Errorf("have %d durations of system.time, want 4", m.Histogram.GetSampleCount())
				}
			}
		}
	}
	for name, n := range want {
		if have[name] != n {
			t.Errorf("%s: have %v, want %v", name, have[name], n)
		}
		delete(have, name)
	}
	if len(have) != 0 {
		t.Errorf("have unexpected series: %v", have)
	}
}

func TestAccessLog(t *testing.T) {
	s := start(t, Options{})
	s.post(timeCall)
	eventually(t, "the request is in the log", func() bool {
		logs := s.logs.String()
		return strings.Contains(logs, "level=DEBUG msg=request") && strings.Contains(logs, "status=200 calls=1")
	})
}
