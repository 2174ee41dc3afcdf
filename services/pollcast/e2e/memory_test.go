package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The budget of these tests' gateways, and the part of the process beside it: the
// kernel's count of a Go program is a little larger than Go's own.
const (
	smallBudget = 96 << 20
	besides     = 32 << 20
)

// TestMemoryBudget runs hundreds of clients that use as much of a gateway's
// memory as they can, in every way, and checks the kernel's count of the
// process's memory.
func TestMemoryBudget(t *testing.T) {
	t.Parallel()
	s := newStack(t, "    s: {upstreams: [\"http://127.0.0.1:1/\"], polls: {p: {method: p}}}\n",
		fmt.Sprintf("gateway: {memoryBudget: %d, maxLag: 1GiB, maxLagTime: 1h, maxMessage: 1MiB}", smallBudget))
	s.nats.start()
	pub := s.nats.publisher(64)
	for i := range 1000 {
		pub.event(fmt.Sprintf("v.n%d", i), `"`+strings.Repeat("x", 4<<10)+`"`)
	}
	gw := s.gateway()
	gw.ready()
	good := dial(t, gw.addr, "/v1/ws?topics=big.x")
	good.await("subscribed", func(f frame) bool { return f.Subscribed != nil })
	body := `"` + strings.Repeat("x", 64<<10) + `"`
	small := `"` + strings.Repeat("x", 3<<10) + `"`
	events := 0
	publish := func() {
		pub.event("big.x", body)
		events++
	}

	t.Run("feeds that slow clients keep alive", func(t *testing.T) {
		for i := range 300 {
			idle(t, gw.addr, fmt.Sprintf("/v1/ws?topics=big.x,small.x,none.n%d", i))
		}
		for range 100 { // large frames are shared by all feeds
			publish()
			wantWithin(t, gw)
		}
		for range 150 { // 300 feeds, 0.4 MB each
			pub.event("small.x", small)
			wantWithin(t, gw)
		}
		eventually(t, "the slowest were closed",
			func() error { return wantMetric(gw, "pollcast_gateway_memory_evictions_total", 1) })
	})
	t.Run("snapshots on their way", func(t *testing.T) {
		for i := range 300 { // of 4 MB each
			hog(t, gw, fmt.Sprintf("/v1/ws?topics=v.>,none.n%d", i))
		}
		for range 40 {
			wantWithin(t, gw)
			time.Sleep(25 * time.Millisecond)
		}
		eventually(t, "connections are refused", func() error {
			return wantMetric(gw, `pollcast_gateway_connections_refused_total{reason="memory"}`, 1)
		})
	})
	t.Run("answers nobody reads", func(t *testing.T) {
		for range 100 {
			nc, err := net.Dial("tcp", gw.addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { nc.Close() })
			_ = nc.(*net.TCPConn).SetReadBuffer(16 << 10)
			fmt.Fprint(nc, "GET /v1/values?topics=v.> HTTP/1.1\r\nHost: x\r\n\r\n")
			wantWithin(t, gw)
		}
	})
	t.Run("messages that are not finished", func(t *testing.T) {
		for range 300 {
			nc := tryUpgrade(t, gw.addr, "/v1/ws")
			if nc == nil {
				continue
			}
			_, _ = nc.Write(append([]byte{0x81, 0xff, 0, 0, 0, 0, 0, 0x0f, 0, 0, 0, 0, 0, 0},
				bytes.Repeat([]byte{'x'}, 900<<10)...)) // fails if it is closed already
			wantWithin(t, gw)
		}
	})
	t.Run("who reads has missed nothing", func(t *testing.T) {
		pub.event("big.x", `"last"`)
		events++
		good.await("the last event", func(f frame) bool { return f.Event != nil && string(f.Event.Data) == `"last"` })
		if n := len(good.seen(func(f frame) bool { return f.Event != nil })); n != events {
			t.Errorf("have %d events, want %d", n, events)
		}
	})
	t.Run("when they have gone all is well", func(t *testing.T) {
		eventually(t, "newcomers are let in", func() error {
			c, err := tryDial(t, gw.addr, "/v1/ws?topics=v.n1")
			if err == nil {
				_, err = c.find(time.Second, anyEvent("v.n1"))
			}
			return err
		})
	})
	t.Logf("%d events; %.0f connections closed; peak %d MiB of %d MiB", events,
		metric(gw, "pollcast_gateway_memory_evictions_total"), resident(t, gw)>>20, smallBudget>>20)
}

// hog opens a client that reads nothing, if the gateway accepts it.
func hog(t *testing.T, gw *service, path string) {
	nc, err := net.Dial("tcp", gw.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	_ = nc.(*net.TCPConn).SetReadBuffer(16 << 10) // so that it is full soon
	fmt.Fprintf(nc, upgradeRequest, path)
}

const upgradeRequest = "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: " +
	"websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// idle connects and subscribes. It reads nothing after the handshake.
func idle(t *testing.T, addr, path string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	_ = nc.(*net.TCPConn).SetReadBuffer(16 << 10) // so that it is full soon
	fmt.Fprintf(nc, upgradeRequest, path)
	head := make([]byte, 12)
	if _, err := io.ReadFull(nc, head); err != nil || string(head) != "HTTP/1.1 101" {
		t.Fatalf("handshake: %q %v", head, err)
	}
	return nc
}

// tryUpgrade connects; nil if the gateway refuses.
func tryUpgrade(t *testing.T, addr, path string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(nc, upgradeRequest, path)
	head := make([]byte, 12)
	if _, err := io.ReadFull(nc, head); err != nil || string(head) != "HTTP/1.1 101" {
		return nil
	}
	return nc
}

// wantWithin checks the gateway's own count, and the kernel's count of the most
// memory of the process, against the budget.
func wantWithin(t *testing.T, gw *service) {
	t.Helper()
	if used := metric(gw, "pollcast_gateway_memory_used_bytes"); used > smallBudget {
		t.Fatalf("%.0f MiB used of %d MiB", used/(1<<20), smallBudget>>20)
	}
	if peak := resident(t, gw); peak > smallBudget+besides {
		_, text, _ := get("http://" + gw.ops + "/metrics")
		t.Fatalf("the process took %d MiB, with a budget of %d MiB:\n%s", peak>>20, smallBudget>>20,
			regexp.MustCompile(`(?m)^(go_memstats|pollcast_gateway_memory|go_gc).*`).FindAll(text, -1))
	}
}

// resident returns the most memory that the process ever used, where the kernel
// knows it, and otherwise the present use.
func resident(t *testing.T, gw *service) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", gw.cmd.Process.Pid))
	if err != nil {
		return memory(t, gw)
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// metric returns one value; 0 if there is none.
func metric(v *service, name string) float64 {
	_, text, err := get("http://" + v.ops + "/metrics")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			f, _ := strconv.ParseFloat(strings.TrimSpace(value), 64) // 0 if it is not a number
			return f
		}
	}
	return 0
}

func wantMetric(v *service, name string, atLeast float64) error {
	if have := metric(v, name); have < atLeast {
		return fmt.Errorf("%s is %v, want %v at least", name, have, atLeast)
	}
	return nil
}
