//go:build soak

package gateway

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/nats-io/nats.go"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
)

// soakP99 is how late the slowest hundredth of the events may be, in the same
// process as NATS and what publishes.
const soakP99 = 100 * time.Millisecond

// TestSoak holds ten connections at 10 events a second and one at 1,000, for
// SOAK (default 30 minutes) of real time: none may be closed, every event must
// come, in time and in order, and every ping; memory and goroutines must not
// grow by more than they vary.
func TestSoak(t *testing.T) {
	length := 30 * time.Minute
	if s := os.Getenv("SOAK"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatalf("SOAK=%q: write a duration such as 30m", s)
		}
		length = d
	}
	r := newRig(t, func(c *Config) { c.History = 1000 }) // full soon, so that what still grows shows
	ended := make(chan error, 11)
	var slow []*soaked
	for range 10 {
		slow = append(slow, soak(r, "slow.topic", ended))
	}
	fast := soak(r, "fast.topic", ended)
	clients := append(slices.Clone(slow), fast)

	var heap, rss, goroutines []float64
	start := time.Now()
	sample := start
	for tick := 1; time.Since(start) < length; tick++ { // of 5 ms
		for range 5 {
			r.now("fast.topic")
		}
		if tick%20 == 0 {
			r.now("slow.topic")
		}
		select {
		case err := <-ended:
			t.Fatalf("after %v: %v", time.Since(start), err)
		case <-time.After(time.Until(start.Add(time.Duration(tick) * 5 * time.Millisecond))):
		}
		if time.Since(sample) > length/120 {
			sample = time.Now()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			heap = append(heap, float64(m.HeapAlloc)/1e6)
			rss = append(rss, resident()/1e6)
			goroutines = append(goroutines, float64(runtime.NumGoroutine()))
		}
	}
	for _, c := range clients {
		eventually(t, "every event arrived", func() bool { return c.count() == r.versions[c.topic] })
	}
	took := time.Since(start)
	want := int(took / (30 * time.Second))
	for i, c := range slow {
		if n := c.pings; n < want-1 || n > want+1 {
			t.Errorf("connection %d got %d pings in %v, want about %d", i, n, took, want)
		}
	}
	p50, p99 := quantiles(clients)
	t.Logf("%v: %d and %d events, p50 %v, p99 %v", took.Round(time.Second), r.versions["fast.topic"], r.versions["slow.topic"], p50, p99)
	if p99 > soakP99 {
		t.Errorf("p99 is %v, want %v at most", p99, soakP99)
	}
	flat(t, "heap, MB", heap, 1)
	flat(t, "resident memory, MB", rss, 4) // NATS takes and gives back buffers of 4 MB
	flat(t, "goroutines", goroutines, 1)
	for _, c := range clients {
		_ = c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Now().Add(time.Second))
	}
}

// now publishes the time, without the id by which NATS finds repetitions: it
// remembers every one for minutes, which is more than the gateway ever holds.
func (r *rig) now(topic string) {
	r.t.Helper()
	r.versions[topic]++
	at := time.Now().UTC()
	e := &event.Event{Topic: topic, Poll: topic, Data: strconv.AppendInt(nil, at.UnixNano(), 10), Version: r.versions[topic], ChangedAt: at, AsOf: at, Fence: 1}
	m := r.names.EventMsg(e, at)
	m.Header.Del(nats.MsgIdHdr)
	if _, err := r.js.PublishMsg(r.t.Context(), m); err != nil {
		r.t.Fatal(err)
	}
}

// A soaked is a client that reads for as long as the soak takes.
type soaked struct {
	*peer
	topic string

	mu    sync.Mutex
	last  uint64 // version
	pings int
	late  map[time.Duration]int // by milliseconds
}

func soak(r *rig, topic string, ended chan<- error) *soaked {
	c := &soaked{peer: r.dial("/v1/ws?topics=" + topic), topic: topic, late: map[time.Duration]int{}}
	answer := c.ws.PingHandler()
	c.ws.SetPingHandler(func(s string) error {
		c.mu.Lock()
		c.pings++
		c.mu.Unlock()
		return answer(s)
	})
	go func() {
		for {
			c.ws.SetReadDeadline(time.Now().Add(time.Minute))
			_, b, err := c.ws.ReadMessage()
			if err == nil {
				err = c.take(b)
			}
			if err != nil {
				ended <- fmt.Errorf("the client of %s: %w", topic, err)
				return
			}
		}
	}()
	return c
}

func (c *soaked) take(b []byte) error {
	var f wire.ServerFrame
	if err := json.Unmarshal(b, &f); err != nil || f.Event == nil {
		return err
	}
	at, err := strconv.ParseInt(string(f.Event.Data), 10, 64)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.Event.Version != c.last+1 {
		return fmt.Errorf("version %d after %d", f.Event.Version, c.last)
	}
	c.last = f.Event.Version
	c.late[time.Since(time.Unix(0, at)).Truncate(time.Millisecond)+time.Millisecond]++
	return nil
}

func (c *soaked) count() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// quantiles of what all clients saw, rounded up to milliseconds.
func quantiles(clients []*soaked) (p50, p99 time.Duration) {
	all, total := map[time.Duration]int{}, 0
	for _, c := range clients {
		for d, n := range c.late {
			all[d] += n
			total += n
		}
	}
	var keys []time.Duration
	for d := range all {
		keys = append(keys, d)
	}
	slices.Sort(keys)
	seen := 0
	for _, d := range keys {
		if seen += all[d]; p50 == 0 && 2*seen >= total {
			p50 = d
		}
		if 100*seen >= 99*total {
			return p50, d
		}
	}
	return p50, p99
}

// resident is the process's memory in bytes, 0 where it cannot be read.
func resident() float64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	pages, _ := strconv.ParseFloat(strings.Fields(string(b))[1], 64)
	return pages * float64(os.Getpagesize())
}

// flat fails when a line through the samples, of which the first two fifths are for
// warming up, rises over its length by more than three times what the samples
// scatter about it, and by more than least.
func flat(t *testing.T, what string, v []float64, least float64) {
	t.Helper()
	v = v[2*len(v)/5:]
	n := float64(len(v))
	var sx, sy, sxx, sxy float64
	for i, y := range v {
		x := float64(i)
		sx, sy, sxx, sxy = sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	slope := (n*sxy - sx*sy) / (n*sxx - sx*sx)
	scatter := 0.0
	for i, y := range v {
		d := y - (sy/n + slope*(float64(i)-sx/n))
		scatter += d * d / n
	}
	scatter = math.Sqrt(scatter)
	rise := slope * (n - 1)
	t.Logf("%s: %.4g on average, rising by %.3g, scattering by %.3g", what, sy/n, rise, scatter)
	if rise > max(least, 3*scatter) {
		t.Errorf("%s: it grows: %.4g", what, v)
	}
}
