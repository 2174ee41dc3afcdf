package gateway

import (
	"strings"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/prometheus/client_golang/prometheus"
)

// A batch of records makes a paced feed tick before the batch is over. A slow
// client of that feed is owed what was sent at that tick, also when nothing
// follows.
func TestTickInTheMiddleOfABatch(t *testing.T) {
	h := newHub(nil, 10, 10, newMetrics(prometheus.NewRegistry()), quiet())
	in := intake{h}
	in.Reset("E")
	now := time.Now()
	fresh := &event.Freshness{Poll: "a.x", AsOf: now, Stale: true, Reason: event.Timeout, Breaker: event.Closed, MaxAgeMs: 60_000}
	ev := func(topic string, deleted bool) *event.Event {
		return &event.Event{Topic: topic, Poll: topic, Version: 1, Data: []byte(`1`), AsOf: now, ChangedAt: now, Deleted: deleted}
	}
	h.mu.Lock()
	f := h.join([]string{">"}, asJSON, 0.01, now)
	h.tick(f, now) // the next one of its own is in 100 s
	h.mu.Unlock()
	p := &pull{feed: f}
	for i, tt := range []struct {
		batch []bus.Message
		want  string
	}{
		{[]bus.Message{{Seq: 1, Event: ev("a.x", false)}, {Seq: 2, Fresh: fresh}}, `"topic":"a.x"`},
		{[]bus.Message{{Seq: 3, Event: ev("a.y", false)}, {Seq: 4, Event: ev("a.z", true)}}, `"deleted":true`},
	} {
		in.Append(tt.batch, tt.batch[len(tt.batch)-1].Seq, false)
		h.mu.Lock()
		frames, ok := h.newest(p, 0)
		h.mu.Unlock()
		if !ok || !strings.Contains(string(frames), tt.want) {
			t.Errorf("batch %d: have %q, want %s in it", i, frames, tt.want)
		}
	}
	h.mu.Lock()
	h.leave(f)
	h.mu.Unlock()
}
