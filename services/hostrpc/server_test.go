package hostrpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestCheck(t *testing.T) {
	DefaultConfig().Check(func(path, problem, fix string) { t.Errorf("the default: %s %s, %s", path, problem, fix) })
	for _, c := range []struct {
		change func(*Config)
		want   string // "path: problem"
	}{
		{func(c *Config) { c.Listen = "" }, `listen: "" is no address`},
		{func(c *Config) { c.Listen = "localhost" }, `listen: "localhost" is no address`},
		{func(c *Config) { c.Listen = "localhost:http" }, `listen: "localhost:http" has no port from 0 to 65535`},
		{func(c *Config) { c.Listen = "localhost:65536" }, `listen: "localhost:65536" has no port from 0 to 65535`},
		{func(c *Config) { c.Listen = ":0" }, ``},
		{func(c *Config) { c.Listen = "[::1]:12090" }, ``},
		{func(c *Config) { c.MaxBodyBytes = 1023 }, `maxBodyBytes: 1023 is outside 1024 to 67108864`},
		{func(c *Config) { c.MaxBodyBytes = 64<<20 + 1 }, `maxBodyBytes: 67108865 is outside 1024 to 67108864`},
		{func(c *Config) { c.MaxBatch = 0 }, `maxBatch: 0 is outside 1 to 10000`},
		{func(c *Config) { c.MaxBatch = 10_001 }, `maxBatch: 10001 is outside 1 to 10000`},
	} {
		config := DefaultConfig()
		c.change(&config)
		var have []string
		config.Check(func(path, problem, fix string) {
			if fix == "" {
				t.Errorf("%s: no fix", path)
			}
			have = append(have, path+": "+problem)
		})
		if strings.Join(have, "; ") != c.want {
			t.Errorf("have %q, want %q", have, c.want)
		}
	}
	_, err := New(t.Context(), Options{})
	if !errors.Is(err, ErrConfig) {
		t.Fatalf("have %v, want ErrConfig", err)
	}
	for _, path := range []string{"listen: ", "maxBodyBytes: ", "maxBatch: "} {
		if !strings.Contains(err.Error(), path) {
			t.Errorf("have %q, want all mistakes, also %s", err, path)
		}
	}
}

func TestBusyPort(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	o := Options{Config: DefaultConfig(), Registerer: prometheus.NewRegistry()}
	o.Config.Listen = busy.Addr().String()
	_, err = New(t.Context(), o)
	if !errors.Is(err, syscall.EADDRINUSE) ||
		!strings.Contains(err.Error(), o.Config.Listen+": another program uses this address") {
		t.Fatalf("have %v, want a sentence about the address", err)
	}
	// A New that failed leaves nothing in the registry.
	o.Config.Listen = "127.0.0.1:0"
	start(t, o)
}

func TestOneRun(t *testing.T) {
	s := start(t, Options{})
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); !errors.Is(err, ErrRan) {
		t.Errorf("a second Run: have %v, want ErrRan", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close after Run: %v", err)
	}
	if conn, err := net.Dial("tcp", s.Addr()); err == nil {
		conn.Close()
		t.Error("the address still answers after Run")
	}

	config := DefaultConfig()
	config.Listen = "127.0.0.1:0"
	closed, err := New(t.Context(), Options{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := closed.Run(t.Context()); !errors.Is(err, ErrRan) {
		t.Errorf("Run after Close: have %v, want ErrRan", err)
	}
}

// TestTwoServers runs two servers in one process, each with its own registry and
// faults. One registry for both is refused.
func TestTwoServers(t *testing.T) {
	registry := prometheus.NewRegistry()
	o := faultsAllowed()
	o.Registerer = registry
	first, second := start(t, o), start(t, faultsAllowed())
	result[faultState](first, "fault.set", `["*","http500"]`)
	if status, text, _ := second.post(timeCall); status != http.StatusOK {
		t.Errorf("have %d %s, want the second server without the first one's fault", status, text)
	}
	o.Config.Listen = "127.0.0.1:0"
	if _, err := New(t.Context(), o); err == nil || !strings.Contains(err.Error(), "one registry for each") {
		t.Errorf("have %v, want that each needs its own registry", err)
	}
}

// TestDrain checks that requests in flight are answered when Run ends.
func TestDrain(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	s := start(t, Options{}, func(s *Server) {
		s.methods["wait"] = &method{Name: "wait", call: func(ctx context.Context, _ args) (any, error) {
			close(entered)
			<-release
			return "done", ctx.Err()
		}}
	})
	type answer struct {
		status int
		text   string
		err    error
	}
	answered := make(chan answer, 1)
	go func() {
		status, text, _, err := s.do(context.WithoutCancel(t.Context()), "POST", "/",
			`{"jsonrpc":"2.0","method":"wait","id":1}`, nil)
		answered <- answer{status, text, err}
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	eventually(t, "the server refuses new connections", func() bool {
		conn, err := net.Dial("tcp", s.Addr())
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	close(release)
	if have := <-answered; have.err != nil || have.status != http.StatusOK || !strings.Contains(have.text, `"done"`) {
		t.Errorf("have %+v, want the answer", have)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// TestServeFails checks that a listener that breaks ends Run with an error.
func TestServeFails(t *testing.T) {
	config := DefaultConfig()
	config.Listen = "127.0.0.1:0"
	s, err := New(t.Context(), Options{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("have %v, want that the listener is closed", err)
	}
}

func TestFaultsWarnOffLoopback(t *testing.T) {
	o := faultsAllowed()
	o.Config.Listen = "0.0.0.0:0"
	s := start(t, o)
	eventually(t, "the log warns", func() bool {
		return strings.Contains(s.logs.String(),
			"every client of this address may set faults")
	})
}

// TestParallelCalls is for the race detector: all methods, faults and
// samples at the same time.
func TestParallelCalls(t *testing.T) {
	s := start(t, faultsAllowed())
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for i := range 10 {
				var batch []string
				for id, name := range s.names {
					if !strings.HasPrefix(name, "fault.set") {
						batch = append(batch, fmt.Sprintf(`{"jsonrpc":"2.0","method":"%s","id":%d}`, name, id))
					}
				}
				const set = `{"jsonrpc":"2.0","method":"fault.set","params":["storage.list","slow",%d],"id":0}`
				batch = append(batch, fmt.Sprintf(set, i+1))
				status, text, _, err := s.do(t.Context(), "POST", "/", "["+strings.Join(batch, ",")+"]", nil)
				if err != nil || status != http.StatusOK || strings.Contains(text, `"error":{`) {
					t.Errorf("have %d %.300s, %v", status, text, err)
				}
			}
		})
	}
	callers.Wait()
}
