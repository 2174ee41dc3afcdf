package hub

import (
	"encoding/json"
	"log/slog"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/memory"
)

// lines encodes a frame as a line of JSON.
type lines struct{}

func (lines) Append(dst []byte, _ Format, f *wire.ServerFrame) []byte {
	b, err := json.Marshal(f)
	if err != nil {
		panic(err)
	}
	return append(append(dst, b...), '\n')
}
func (lines) Compress(frame, _, _ []byte) []byte { return frame }
func (lines) CompressValue([]byte) []byte        { return nil }

// gauge is a metric of any kind.
type gauge struct{ atomic.Value }

func (g *gauge) Inc()              { g.Add(1) }
func (g *gauge) Set(v float64)     { g.Store(v) }
func (g *gauge) Observe(v float64) { g.Store(v) }
func (g *gauge) Load() float64     { return g.Value.Load().(float64) }
func (g *gauge) Add(v float64) {
	if old, ok := g.Value.Load().(float64); ok {
		v += old
	}
	g.Store(v)
}

func newMetrics() Metrics {
	return Metrics{
		TopicsRefused: new(gauge), Compressed: new(gauge), Snapshots: new(gauge), Records: new(gauge), Polls: new(gauge),
		PollsStale: new(gauge), Topics: new(gauge), Feeds: new(gauge), ClockAhead: new(gauge), RecordDelay: new(gauge),
	}
}

// newHub returns a hub of few topics without any connection.
func newHub(t *testing.T) *Hub {
	t.Helper()
	return New(Options{
		Encoder: lines{}, Budget: memory.New(1 << 30), Metrics: newMetrics(), Log: slog.New(slog.DiscardHandler),
		MaxTopics: 10, History: 10, HistoryBytes: 1 << 20,
		Groups: func(*Feed) []Group { return nil }, OnShort: func() {}, OnReset: func() {},
	})
}

// A frame that many feeds hold is counted once, for as long as one holds it.
func TestSharedFrames(t *testing.T) {
	b := memory.New(1 << 30)
	frame := make([]byte, 2*memory.BigFrame)
	b.Share(frame)
	b.Share(frame[:memory.BigFrame-1])
	one, two := new(frameLog), new(frameLog)
	for _, l := range []*frameLog{one, two} {
		l.init(b, Mark{}, time.Now())
	}
	slow, _ := two.tip() // a connection that has yet to read it
	for _, l := range []*frameLog{one, two} {
		l.append(frame, 1, time.Now())
		l.append([]byte("small"), 2, time.Now())
		if own := l.owned.Load(); own != minChunk {
			t.Errorf("%d bytes of its own, want one chunk", own)
		}
	}
	if n := b.Shared(); n != 2*memory.BigFrame {
		t.Errorf("have %d bytes shared, want %d", n, 2*memory.BigFrame)
	}
	runtime.KeepAlive(frame)
	frame, one, two = nil, nil, nil
	runtime.GC()
	if n := b.Shared(); n != 2*memory.BigFrame {
		t.Errorf("have %d bytes shared while a feed's reader holds them", n)
	}
	runtime.KeepAlive(slow)
	slow = Cursor{}
	for b.Shared() != 0 { // until the test's own deadline
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
}
