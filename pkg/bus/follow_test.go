package bus_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
)

const patience = 20 * time.Second

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// A record keeps what a Follower gives to its Log.
type record struct {
	mu     sync.Mutex
	epochs []string
	seqs   []uint64 // of events, in the order they came
	last   uint64
	up     bool
	whys   []string
}

func (r *record) Reset(epoch string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.epochs = append(r.epochs, epoch)
	r.seqs = nil
}

func (r *record) Snapshot(msgs []bus.Message, seq uint64) { r.Append(msgs, seq, true) }

func (r *record) Append(msgs []bus.Message, seq uint64, late bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range msgs {
		r.seqs = append(r.seqs, m.Seq)
	}
	r.last = seq
}

func (r *record) Current() {}

func (r *record) Connected(ok bool, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.up = ok
	if !ok {
		r.whys = append(r.whys, why)
	}
}

// see waits until ok returns true, with mu held.
func (r *record) see(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		r.mu.Lock()
		done := ok()
		r.mu.Unlock()
		if done {
			return
		}
		if time.Now().After(end) {
			r.mu.Lock()
			defer r.mu.Unlock()
			t.Fatalf("not within %v: %s; have epochs %v, seqs %v, at %d, up %v, whys %q",
				patience, what, r.epochs, r.seqs, r.last, r.up, r.whys)
		}
	}
}

// follow runs a follower until the test ends.
func follow(t *testing.T, c bus.Config) *record {
	t.Helper()
	conn := bustest.Connect(t, c)
	r := new(record)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	n, err := c.Names()
	if err != nil {
		t.Fatal(err)
	}
	f := &bus.Follower{Conn: conn, Names: n, Log: r, Logger: quiet}
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

func publish(t *testing.T, js jetstream.JetStream, topic string, version int) {
	t.Helper()
	e := &event.Event{
		Topic: topic, Poll: topic, Data: json.RawMessage(`1`), Version: uint64(version), ChangedAt: noon, AsOf: noon,
	}
	m := names(t).EventMsg(e, noon.Add(time.Duration(version)*time.Second))
	if _, err := js.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

func TestFollowFromTheStart(t *testing.T) {
	s := bustest.Start(t)
	nc := s.Connect()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	r := follow(t, s.Config()) // before there is a stream
	r.see(t, "that the stream does not exist", func() bool {
		return len(r.whys) > 0 && strings.Contains(r.whys[len(r.whys)-1], "does not exist yet")
	})
	if _, err := bus.EnsureStream(t.Context(), js, names(t), s.Config()); err != nil {
		t.Fatal(err)
	}
	publish(t, js, "a.b", 1)
	publish(t, js, "a.b", 2)
	r.see(t, "both events, or the last in the snapshot", func() bool {
		return r.up && r.last == 2 && r.seqs[len(r.seqs)-1] == 2
	})
	// Another epoch.
	if err := js.DeleteStream(t.Context(), names(t).Stream()); err != nil {
		t.Fatal(err)
	}
	if _, err := bus.EnsureStream(t.Context(), js, names(t), s.Config()); err != nil {
		t.Fatal(err)
	}
	publish(t, js, "a.c", 1)
	r.see(t, "a second epoch with its one event", func() bool {
		return len(r.epochs) == 2 && r.epochs[0] != r.epochs[1] && r.last == 1 && len(r.seqs) == 1
	})
}

func TestFollowManySubjects(t *testing.T) {
	s := bustest.Start(t)
	_, js, n := s.JetStream()
	const topics = 2500 // more than one direct get answers
	for i := range topics {
		topic := fmt.Sprintf("a.t%d", i)
		e := &event.Event{
			Topic: topic, Poll: topic, Data: json.RawMessage(`1`), Version: 1, ChangedAt: noon, AsOf: noon,
		}
		if _, err := js.PublishMsgAsync(n.EventMsg(e, noon)); err != nil {
			t.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	r := follow(t, s.Config())
	r.see(t, "every topic once, in order", func() bool {
		if len(r.seqs) != topics {
			return false
		}
		for i, seq := range r.seqs {
			if seq != uint64(i+1) {
				return false
			}
		}
		return r.last == topics
	})
}

// What is published while the connection is cut is read back: every event once
// and in order, also when nothing is published afterwards.
func TestFollowThroughCuts(t *testing.T) {
	s := bustest.Start(t)
	_, js, _ := s.JetStream()
	proxy := s.NewProxy()
	r := follow(t, proxy.Config())
	r.see(t, "it is up", func() bool { return r.up })
	want := uint64(0)
	for round := range 3 {
		for range 10 {
			want++
			publish(t, js, "a.b", int(want))
		}
		proxy.Cut()
		r.see(t, "it notices", func() bool { return !r.up })
		for range 10 {
			want++
			publish(t, js, "a.b", int(want))
		}
		proxy.Mend()
		r.see(t, fmt.Sprintf("all %d events after cut %d", want, round+1), func() bool { return r.up && r.last == want })
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.epochs) != 1 {
		t.Errorf("%d epochs, want 1", len(r.epochs))
	}
	for i, seq := range r.seqs {
		if seq != uint64(i+1) {
			t.Fatalf("event %d has sequence %d: a gap, a repetition or a wrong order in %v", i, seq, r.seqs)
		}
	}
}

// A server that goes away and comes back with its data goes on in its epoch.
func TestFollowThroughRestart(t *testing.T) {
	s := bustest.Start(t)
	_, js, _ := s.JetStream()
	r := follow(t, s.Config())
	publish(t, js, "a.b", 1)
	r.see(t, "the event", func() bool { return r.up && r.last == 1 })
	s.Stop()
	r.see(t, "the loss", func() bool { return !r.up })
	s.Restart()
	r.see(t, "the return", func() bool { return r.up })
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err = js.Stream(t.Context(), names(t).Stream()); err == nil {
			break
		}
	}
	publish(t, js, "a.b", 2)
	r.see(t, "the next event in the same epoch", func() bool { return r.last == 2 && len(r.epochs) == 1 })
}
