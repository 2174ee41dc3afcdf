package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestExitCodes(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	answers := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer answers.Close()
	defer http.DefaultClient.CloseIdleConnections()
	for _, c := range []struct {
		name   string
		args   []string
		env    func(string) string
		want   int
		naming string
	}{
		{"busy port", []string{"-listen", busy.Addr().String()}, env(), 1, "another program uses this address"},
		{"bad address", []string{"-listen", "nowhere"}, env(), 2, `listen: "nowhere" is not an address`},
		{"bad address in env", nil, env("POLLCAST_HOSTRPC_LISTEN", "nowhere"), 2, `"nowhere"`},
		{"bad switch in env", nil, env("POLLCAST_HOSTRPC_ALLOWFAULTS", "perhaps"), 2, `POLLCAST_HOSTRPC_ALLOWFAULTS="perhaps": write true or false`},
		{"bad format", []string{"-log-format", "xml"}, env(), 2, "write text or json"},
		{"bad level", []string{"-log-level", "loud"}, env(), 2, "write debug, info, warn or error"},
		{"unknown flag", []string{"-port", "1"}, env(), 2, "-port"},
		{"argument", []string{"serve"}, env(), 2, `"serve" is not understood`},
		{"help", []string{"-help"}, env(), 0, "POLLCAST_HOSTRPC_LISTEN"},
		{"healthy", []string{"-healthcheck", answers.URL + "/healthz"}, env(), 0, ""},
		{"unhealthy", []string{"-healthcheck", answers.URL + "/"}, env(), 1, "503"},
		{"nobody there", []string{"-healthcheck", "http://127.0.0.1:1/healthz"}, env(), 1, "refused"},
		{"no URL", []string{"-healthcheck", "::"}, env(), 1, "check health"},
	} {
		t.Run(c.name, func(t *testing.T) {
			stderr := new(syncBuffer)
			if have := run(t.Context(), c.args, c.env, stderr); have != c.want {
				t.Errorf("have exit code %d, want %d", have, c.want)
			}
			if !strings.Contains(stderr.String(), c.naming) {
				t.Errorf("have %q, want it to name %q", stderr, c.naming)
			}
			if lines := strings.Count(stderr.String(), "\n"); c.want == 1 && lines != 1 {
				t.Errorf("have %d lines, want one sentence", lines)
			}
		})
	}
}

// TestServes runs the whole command, with the environment, until a signal's
// context ends.
func TestServes(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	stderr := new(syncBuffer)
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"-log-format", "json"}, env("POLLCAST_HOSTRPC_LISTEN", "127.0.0.1:0", "POLLCAST_HOSTRPC_ALLOWFAULTS", "true"), stderr)
	}()
	address := regexp.MustCompile(`"address":"([^"]+)","faults_allowed":true`)
	var found []string
	for deadline := time.Now().Add(20 * time.Second); found == nil; time.Sleep(10 * time.Millisecond) {
		if found = address.FindStringSubmatch(stderr.String()); found == nil && time.Now().After(deadline) {
			t.Fatalf("the address is not in the log: %s", stderr)
		}
	}
	if have := run(t.Context(), []string{"-healthcheck", "http://" + found[1] + "/healthz"}, env(), stderr); have != 0 {
		t.Errorf("have exit code %d from -healthcheck, want 0", have)
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if have := <-code; have != 0 {
		t.Errorf("have exit code %d, want 0: %s", have, stderr)
	}
}

type syncBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
