package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/event"
)

// BenchmarkPublishToClient measures the way of an event from the call that
// publishes it (JetStream, on disk, then republished) through a gateway process
// to 10 WebSocket clients. An operation is one event. They are published at 200
// per second.
//
//	go test ./e2e -run '^$' -bench PublishToClient -benchtime 1000x
func BenchmarkPublishToClient(b *testing.B) {
	const clients, every = 10, 5 * time.Millisecond
	s := newStack(b, "")
	s.nats.start()
	nc := s.nats.connect("poller")
	js, err := jetstream.New(nc)
	if err != nil {
		b.Fatal(err)
	}
	names, err := bus.NewNames("")
	if err != nil {
		b.Fatal(err)
	}
	if _, err := bus.EnsureStream(b.Context(), js, names, bus.DefaultConfig()); err != nil {
		b.Fatal(err)
	}
	gateway := s.gateway()
	gateway.ready()

	begin := time.Now()
	sent := make([]atomic.Int64, b.N) // nanoseconds after begin
	ctx, cancel := context.WithTimeout(b.Context(), time.Duration(b.N)*every+patience)
	defer cancel()
	var mu sync.Mutex
	var took []time.Duration
	var receiving sync.WaitGroup
	for range clients {
		ws, _, err := websocket.Dial(ctx, "ws://"+gateway.addr+"/v1/ws?topics=bench.>",
			&websocket.DialOptions{HTTPClient: web})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = ws.CloseNow() })
		subscribed := make(chan struct{})
		receiving.Go(func() {
			own := make([]time.Duration, 0, b.N)
			for len(own) < b.N {
				_, data, err := ws.Read(ctx)
				now := time.Since(begin)
				if err != nil {
					b.Errorf("after %d of %d events: %v", len(own), b.N, err)
					return
				}
				var f struct {
					Subscribed *struct{}
					Event      *struct {
						Version int
						Data    json.RawMessage
					}
				}
				if err := json.Unmarshal(data, &f); err != nil {
					b.Error(err)
					return
				}
				if f.Subscribed != nil {
					close(subscribed)
				}
				if f.Event != nil {
					if f.Event.Version != len(own)+1 {
						b.Errorf("version %d after %d", f.Event.Version, len(own))
					}
					own = append(own, now-time.Duration(sent[f.Event.Version-1].Load()))
				}
			}
			mu.Lock()
			took = append(took, own...)
			mu.Unlock()
		})
		select {
		case <-subscribed:
		case <-time.After(patience):
			b.Fatal("not subscribed")
		}
	}

	padding := strings.Repeat("x", 150)
	tick := time.NewTicker(every)
	defer tick.Stop()
	b.ResetTimer()
	for i := range b.N {
		<-tick.C
		now := time.Now()
		sent[i].Store(int64(now.Sub(begin)))
		e := &event.Event{
			Topic: "bench.latency", Poll: "bench.latency", Version: uint64(i + 1), ChangedAt: now.UTC(), AsOf: now.UTC(),
			Fence: 1,
			Data:  json.RawMessage(fmt.Sprintf(`{"n":%d,"padding":%q}`, i, padding)),
		}
		// Slots are whole milliseconds. Two events must not have the same slot.
		if _, err := js.PublishMsgAsync(names.EventMsg(e, time.UnixMilli(int64(i)))); err != nil {
			b.Fatal(err)
		}
	}
	receiving.Wait()
	b.StopTimer()
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(patience):
		b.Error("some events were not acknowledged")
	}
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	ms := func(share float64) float64 {
		return float64(took[min(int(share*float64(len(took))), len(took)-1)].Microseconds()) / 1000
	}
	b.ReportMetric(ms(0.5), "p50-ms")
	b.ReportMetric(ms(0.99), "p99-ms")
	b.ReportMetric(ms(1), "max-ms")
	if p99 := ms(0.99); p99 >= 100 {
		b.Errorf("p99 is %v ms, want less than 100", p99)
	}
}
