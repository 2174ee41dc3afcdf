package hub

import (
	"strings"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
)

// A batch of records makes a paced feed tick before the batch is over. A slow
// client of that feed is owed what was sent at that tick, also when nothing
// follows.
func TestTickInTheMiddleOfABatch(t *testing.T) {
	h := newHub(t)
	h.Reset("E")
	now := time.Now()
	fresh := &event.Freshness{Poll: "a.x", AsOf: now, Stale: true, Reason: event.Timeout, Breaker: event.Closed, MaxAgeMs: 60_000}
	ev := func(topic string, deleted bool) *event.Event {
		return &event.Event{Topic: topic, Poll: topic, Version: 1, Data: []byte(`1`), AsOf: now, ChangedAt: now, Deleted: deleted}
	}
	var f *Feed
	h.With(func(v *View) {
		f = v.Join([]string{">"}, JSON, 0.01)
		v.tick(f, now) // the next one of its own is in 100 s
	})
	p := &Pull{Feed: f}
	for i, tt := range []struct {
		batch []Record
		want  string
	}{
		{[]Record{{Seq: 1, Event: ev("a.x", false)}, {Seq: 2, Fresh: fresh}}, `"topic":"a.x"`},
		{[]Record{{Seq: 3, Event: ev("a.y", false)}, {Seq: 4, Event: ev("a.z", true)}}, `"deleted":true`},
	} {
		h.Append(tt.batch, tt.batch[len(tt.batch)-1].Seq, false)
		var frames []byte
		ok := false
		h.With(func(v *View) { frames, ok = v.Newest(p, 0) })
		if !ok || !strings.Contains(string(frames), tt.want) {
			t.Errorf("batch %d: have %q, want %s in it", i, frames, tt.want)
		}
	}
	h.With(func(v *View) { v.Leave(f) })
}
