//go:build soak

package gateway

import (
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// TestSoak holds idle connections and one that is fed for SOAK (default 25
// minutes) of real time: none may be closed, every ping must come, and memory
// and goroutines must not grow.
func TestSoak(t *testing.T) {
	length := 25 * time.Minute
	if s := os.Getenv("SOAK"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatalf("SOAK=%q: write a duration such as 25m", s)
		}
		length = d
	}
	r := newRig(t, func(c *Config) { c.History = 1000 }) // full soon, so that what still grows shows
	const idle = 10
	var mu sync.Mutex
	pings := make([]int, idle)
	ended := make(chan error, idle+1)
	for i := range idle {
		p := r.dial("/v1/ws?topics=quiet.topic")
		p.ws.SetReadDeadline(time.Time{})
		answer := p.ws.PingHandler()
		p.ws.SetPingHandler(func(s string) error {
			mu.Lock()
			pings[i]++
			mu.Unlock()
			return answer(s)
		})
		go func() {
			for {
				if _, _, err := p.ws.ReadMessage(); err != nil {
					ended <- err
					return
				}
			}
		}()
	}
	fed := r.dial("/v1/ws?topics=fed.topic")
	fed.next()
	versions := uint64(0)
	go func() {
		for {
			fed.ws.SetReadDeadline(time.Now().Add(time.Minute))
			_, _, err := fed.ws.ReadMessage()
			if err != nil {
				ended <- err
				return
			}
			mu.Lock()
			versions++
			mu.Unlock()
		}
	}()
	var heaps, goroutines []float64
	start, sent := time.Now(), uint64(0)
	sample := start
	for time.Since(start) < length {
		r.event("fed.topic", `{"n":1}`)
		sent++
		time.Sleep(2 * time.Millisecond)
		select {
		case err := <-ended:
			t.Fatalf("after %v: a connection ended: %v", time.Since(start), err)
		default:
		}
		if time.Since(sample) > length/60 {
			sample = time.Now()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			heaps = append(heaps, float64(m.HeapAlloc))
			goroutines = append(goroutines, float64(runtime.NumGoroutine()))
		}
	}
	eventually(t, "every event arrived", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return versions >= sent
	})
	mu.Lock()
	defer mu.Unlock()
	want := int(length / (30 * time.Second))
	for i, n := range pings {
		if n < want-1 || n > want+1 {
			t.Errorf("connection %d got %d pings in %v, want about %d", i, n, length, want)
		}
	}
	third := len(heaps) / 3
	first, last := median(heaps[third:2*third]), median(heaps[2*third:])
	t.Logf("%v: %d events, %v pings, heap %.1f MB then %.1f MB, goroutines %.0f then %.0f",
		length, sent, pings, first/1e6, last/1e6, median(goroutines[third:2*third]), median(goroutines[2*third:]))
	// The NATS server in this process takes and gives back buffers of 4 MB. At 400
	// events a second, 20 bytes kept of each would show beside them.
	if last > first+9e6 {
		t.Errorf("the heap grew from %.1f to %.1f MB", first/1e6, last/1e6)
	}
	if median(goroutines[2*third:]) > median(goroutines[third:2*third]) {
		t.Error("goroutines grew")
	}
	_ = fed.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Now().Add(time.Second))
}

func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}
