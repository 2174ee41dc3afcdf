package bus_test

import (
	"strconv"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
)

// read has followers read a message that the stream does not report. A former
// leader of the stream does the same: it was frozen, and answers before it has
// caught up.
func read(t *testing.T, nc *nats.Conn, n bus.Names, seq uint64) {
	t.Helper()
	m := nats.NewMsg(n.Live("a.b"))
	m.Header.Set("Nats-Sequence", strconv.FormatUint(seq, 10))
	if err := nc.PublishMsg(m); err != nil {
		t.Fatal(err)
	}
}

// A stream that reports fewer messages than were read from it does not count as
// set back at once, because every client would have to start over.
func TestAnOldLeaderIsNotBelieved(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t)
	nc, js, n := s.JetStream()
	publish(t, js, "a.b", 1)
	rec := follow(t, s.Config())
	rec.see(t, "the snapshot", func() bool { return rec.up && rec.last == 1 })
	read(t, nc, n, 2)
	rec.see(t, "that NATS is behind", func() bool {
		return !rec.up && rec.whys[len(rec.whys)-1] == "NATS is behind what was read from it"
	})
	publish(t, js, "a.b", 2)
	rec.see(t, "that it has caught up", func() bool { return rec.up })
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if len(rec.epochs) != 1 {
		t.Errorf("started over %d times", len(rec.epochs)-1)
	}
}

// A stream that goes on reporting fewer messages was set back, for example by a
// restored backup.
func TestARewoundStream(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t)
	nc, js, n := s.JetStream()
	publish(t, js, "a.b", 1)
	rec := follow(t, s.Config())
	rec.see(t, "the snapshot", func() bool { return rec.up && rec.last == 1 })
	read(t, nc, n, 2)
	rec.see(t, "a new start", func() bool { return len(rec.epochs) == 2 && rec.up && rec.last == 1 })
}

// A snapshot's position is that of the replica that answered. It may be higher
// than the one asked for.
func TestLastPerSubject(t *testing.T) {
	s := bustest.Start(t)
	nc, js, n := s.JetStream()
	at := func(atLeast uint64) (uint64, int) {
		t.Helper()
		count := 0
		seq, err := n.LastPerSubject(t.Context(), nc, js, n.InAll(), atLeast, func(*nats.Msg) { count++ })
		if err != nil {
			t.Fatal(err)
		}
		return seq, count
	}
	if seq, count := at(0); seq != 0 || count != 0 {
		t.Errorf("an empty stream: %d messages at %d", count, seq)
	}
	const topics = 1500 // more than one page
	for i := range topics {
		publish(t, js, "a.t"+strconv.Itoa(i%topics), i/topics+1)
	}
	for _, atLeast := range []uint64{0, 10, topics} {
		if seq, count := at(atLeast); seq != topics || count != topics {
			t.Errorf("%d messages at %d, want %d at %d", count, seq, topics, topics)
		}
	}
}
