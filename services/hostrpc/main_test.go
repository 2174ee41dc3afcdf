package hostrpc

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is the longest time that a test waits. It is reached only when
// something is broken.
const patience = 20 * time.Second

type testServer struct {
	*Server
	t      *testing.T
	url    string
	client *http.Client
	logs   *logBuffer
	stop   func() error // ends Run and returns its error
}

// start runs a server on a free port until the test ends. prepare may change it
// before it serves.
func start(t *testing.T, o Options, prepare ...func(*Server)) *testServer {
	t.Helper()
	return startWith(t, t.Context(), o, prepare...)
}

func startWith(t *testing.T, ctx context.Context, o Options, prepare ...func(*Server)) *testServer {
	t.Helper()
	logs := new(logBuffer)
	if o.Config == (Config{}) {
		o.Config = DefaultConfig()
	}
	if o.Config.Listen == DefaultListen {
		o.Config.Listen = "127.0.0.1:0"
	}
	o.Logger = slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s, err := New(ctx, o)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	for _, f := range prepare {
		f(s)
	}
	transport := new(http.Transport)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop := sync.OnceValue(func() error {
		cancel()
		defer transport.CloseIdleConnections()
		select {
		case err := <-done:
			return err
		case <-time.After(patience):
			t.Error("Run did not return after its context ended")
			return nil
		}
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return &testServer{Server: s, t: t, url: "http://" + s.Addr(),
		client: &http.Client{Transport: transport, Timeout: patience}, logs: logs, stop: stop}
}

func faultsAllowed() Options {
	c := DefaultConfig()
	c.AllowFaults = true
	return Options{Config: c}
}

// post sends a body as JSON and returns status, body and headers.
func (s *testServer) post(body string) (int, string, http.Header) {
	s.t.Helper()
	status, got, header, err := s.do(s.t.Context(), http.MethodPost, "/", body,
		http.Header{"Content-Type": {"application/json"}})
	if err != nil {
		s.t.Fatalf("post %s: %v", body, err)
	}
	return status, got, header
}

func (s *testServer) do(ctx context.Context, method, path, body string, h http.Header) (int, string, http.Header,
	error) {
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		return 0, "", nil, err
	}
	for k, v := range h {
		req.Header[k] = v
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, "", nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), resp.Header, err
}

// result calls a method and decodes its result.
func result[T any](s *testServer, method, params string) T {
	s.t.Helper()
	body := `{"jsonrpc":"2.0","method":"` + method + `","id":1`
	if params != "" {
		body += `,"params":` + params
	}
	_, text, _ := s.post(body + "}")
	var answer struct {
		Result *T
		Error  *rpcError
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		s.t.Fatalf("%s: %v in %s", method, err, text)
	}
	if answer.Error != nil {
		s.t.Fatalf("%s: %v", method, answer.Error)
	}
	if answer.Result == nil {
		s.t.Fatalf("%s: no result in %s", method, text)
	}
	return *answer.Result
}

// failure decodes a single answer that must be an error.
func failure(t *testing.T, text string) (id string, fail rpcError) {
	t.Helper()
	var answer struct {
		ID    json.RawMessage
		Error *rpcError
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil || answer.Error == nil {
		t.Fatalf("have %q (%v), want a JSON-RPC error", text, err)
	}
	return string(answer.ID), *answer.Error
}

// eventually waits until f returns true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

// logBuffer collects log lines of several goroutines.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
