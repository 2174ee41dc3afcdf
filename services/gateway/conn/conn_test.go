package conn

import (
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/gateway/frame"
	"github.com/pollcast/pollcast/services/gateway/hub"
	"github.com/pollcast/pollcast/services/gateway/memory"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newHost returns a host whose hub knows an empty stream, and its only writer.
func newHost(t *testing.T) (*Host, *Writer) {
	t.Helper()
	h := &Host{Budget: memory.New(1 << 30)}
	w := NewWriter(0, h)
	counter := func() prometheus.Counter { return prometheus.NewCounter(prometheus.CounterOpts{Name: "n"}) }
	gauge := func() prometheus.Gauge { return prometheus.NewGauge(prometheus.GaugeOpts{Name: "n"}) }
	h.Conflations, h.SentBytes, h.Blocked = counter(), counter(), gauge()
	h.Hub = hub.New(hub.Options{
		Encoder: frame.Encoder{}, Budget: h.Budget, Log: slog.New(slog.DiscardHandler),
		Metrics: hub.Metrics{
			TopicsRefused: counter(), Compressed: counter(), Snapshots: counter(), Records: counter(), Polls: gauge(),
			PollsStale: gauge(), Topics: gauge(), Feeds: gauge(), ClockAhead: gauge(),
			RecordDelay: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "n"}),
		},
		MaxTopics: 10, History: 10, HistoryBytes: 1 << 20,
		Groups: func(f *hub.Feed) []hub.Group { return []hub.Group{w.NewGroup(f)} }, OnShort: func() {}, OnReset: func() {},
	})
	h.Hub.Reset("E")
	h.Hub.Snapshot(nil, 0)
	return h, w
}

// A feed with many clients takes its turns with the others, who need not wait
// until all of those have theirs. Nobody is passed over, whatever comes, goes and
// grows in the middle of a walk.
func TestWalkInStrides(t *testing.T) {
	h, w := newHost(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	connect := func(topic string) *Conn {
		there, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		read := make(chan struct{})
		go func() {
			defer close(read)
			_, _ = io.Copy(io.Discard, there) // until it is closed
		}()
		here, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { here.Close(); there.Close(); <-read })
		c := New(h, 0, "", here, hub.JSON, w)
		h.Hub.With(func(v *hub.View) {
			f := v.Join([]string{topic}, hub.JSON, 0)
			cur, pos := v.Tip(f)
			c.GoTo(v, f, cur, pos)
			c.Queue(Step{Feed: f, Cur: cur, Pos: pos})
		})
		c.Move()
		return c
	}
	seq := uint64(0)
	publish := func(topic string) {
		seq++
		now := time.Now()
		h.Hub.Append([]hub.Record{{Seq: seq, Stored: now, Event: &event.Event{Topic: topic, Poll: topic, Version: seq, Data: []byte("1"), ChangedAt: now, AsOf: now}}}, seq, false)
	}
	behind := func(conns []*Conn) (n int) {
		for _, c := range conns {
			if c.Lag() > 0 {
				n++
			}
		}
		return n
	}
	finish := func() {
		t.Helper()
		for range 1000 {
			if !w.turn() {
				return
			}
		}
		t.Fatal("the writer has no end")
	}
	var many []*Conn
	const clients = 5*strideConns + 10
	for range clients {
		many = append(many, connect("a.x"))
	}
	few := []*Conn{connect("b.x")}
	finish()
	publish("a.x")
	publish("b.x")
	if behind(many) != clients || behind(few) != 1 {
		t.Fatalf("%d and %d are behind, want all", behind(many), behind(few))
	}
	w.turn()
	if n := behind(many); n != clients-strideConns || behind(few) != 0 {
		t.Errorf("after a turn %d of the many are behind, and %d of the few; want %d and none", n, behind(few), clients-strideConns)
	}
	publish("a.x") // those who were visited are behind again
	w.turn()
	for _, i := range []int{0, 1, clients / 2, clients - 1} { // of both who were and were not visited
		many[i].Fail()
		many[i].Leave()
	}
	many = append(many[2:clients/2], many[clients/2+1:clients-1]...)
	many = append(many, connect("a.x"))
	w.turn()
	publish("b.x")
	w.turn()
	if behind(few) != 0 {
		t.Error("the few wait for the many")
	}
	finish()
	if n := behind(many); n > 0 {
		t.Errorf("%d of %d were passed over", n, len(many))
	}
	for i, c := range many {
		if have, want := c.sent.Load(), c.feed.Load().End(); have != want {
			t.Errorf("client %d has %d bytes, want %d", i, have, want)
		}
	}
	if g := many[0].out.group; g.dirty.Load() || g.walking {
		t.Error("the group still waits for a walk")
	}
}

// A client that keeps up, if late, is not closed by age.
func TestLateButKeepingUp(t *testing.T) {
	h, _ := newHost(t)
	var f *hub.Feed
	h.Hub.With(func(v *hub.View) { f = v.Join([]string{"a.x"}, hub.JSON, 0) })
	c := &Conn{host: h}
	c.feed.Store(f)
	c.reading.Store(f)
	at := time.Unix(1000, 0).UnixNano()
	const lag = 8 // seconds
	c.draining.Store(true)
	var ends []uint64
	grow := func() {
		n := uint64(len(ends) + 1)
		h.Hub.Append([]hub.Record{{Seq: n, Stored: time.Now(), Event: &event.Event{Topic: "a.x", Poll: "a.x", Version: n, Data: []byte("1")}}}, n, false)
		ends = append(ends, f.End())
	}
	for i := range uint64(100) {
		grow()
		if i >= lag {
			c.sent.Store(ends[i-lag])
		}
		if age := c.Age(at + int64(i)*int64(time.Second)); age > (lag+1)*time.Second {
			t.Fatalf("after %d s: age %v of a client that is %d s behind", i, age, lag)
		}
	}
	for i := range uint64(20) { // it stops reading
		grow()
		if age := c.Age(at + int64(100+i)*int64(time.Second)); i == 19 && age < 11*time.Second {
			t.Errorf("age %v of a client that got nothing for 20 s", age)
		}
	}
	c.draining.Store(false)
	if age := c.Age(at); age != 0 {
		t.Errorf("age %v of a client whose socket takes everything", age)
	}
}
