package e2e

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ledger is what the stream has stored, from JetStream's own consumer and from
// the acknowledgements that the publishers received. It knows nothing of
// gateways.
type ledger struct {
	t  testing.TB
	js jetstream.JetStream

	mu     sync.Mutex
	topics map[string][]stored // by sequence number
	holes  map[string][]hole
	last   uint64 // sequence number of the last message read
	acked  map[uint64]ack
}

// stored is one event.
type stored struct {
	seq, version uint64
	asOf         time.Time
	deleted      bool
	data         uint64 // hash of the value
}

// hole is a range in which a deletion removed events before they were read: of a
// deleted key the stream keeps the deletion only.
type hole struct{ from, to uint64 }

// ack is what a publisher knows of one event.
type ack struct {
	topic   string
	version uint64
}

// newLedger reads the stream until the test ends.
func newLedger(t testing.TB, c *cluster) *ledger {
	t.Helper()
	js, err := jetstream.New(c.connect(t, admin))
	if err != nil {
		t.Fatal(err)
	}
	l := &ledger{t: t, js: js, topics: map[string][]stored{}, holes: map[string][]hole{}, acked: map[uint64]ack{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			l.read(ctx)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return l
}

// read reads the stream from the last position until there is an error.
func (l *ledger) read(ctx context.Context) {
	ask, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// An ordered consumer is not used: its Fetch recreates it without an end when
	// it is lost.
	cons, err := l.js.CreateConsumer(ask, "POLLCAST", jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: l.position() + 1,
		AckPolicy: jetstream.AckNonePolicy, InactiveThreshold: time.Minute, Replicas: 1, MemoryStorage: true,
	})
	if err != nil {
		sleep(ctx, 100*time.Millisecond)
		return
	}
	for ctx.Err() == nil {
		if !l.fetch(ctx, cons) {
			sleep(ctx, 100*time.Millisecond)
			return // continue from here with another consumer
		}
	}
}

// fetch reads one batch and reports whether the batch was complete.
func (l *ledger) fetch(ctx context.Context, cons jetstream.Consumer) bool {
	ask, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	batch, err := cons.Fetch(500, jetstream.FetchContext(ask))
	if err != nil {
		return false
	}
	whole := true
	for m := range batch.Messages() { // to its end: the library's goroutine must end before the test
		if whole = whole && l.fill(ctx, m); !whole {
			cancel()
		}
	}
	return whole && batch.Error() == nil
}

// fill takes in a message. Before it, it reads from the stream's leader the
// messages that a consumer on a replica may have skipped.
func (l *ledger) fill(ctx context.Context, m jetstream.Msg) bool {
	meta, err := m.Metadata()
	if err != nil {
		l.t.Errorf("a message of the stream without metadata: %v", err)
		return false
	}
	for seq := l.position() + 1; seq < meta.Sequence.Stream; seq++ {
		s, err := l.js.Stream(ctx, "POLLCAST")
		if err != nil {
			return false
		}
		raw, err := s.GetMsg(ctx, seq)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound): // deleted
		case err != nil:
			return false
		default:
			l.take(raw.Sequence, raw.Subject, raw.Header, raw.Data)
		}
	}
	l.take(meta.Sequence.Stream, m.Subject(), m.Headers(), m.Data())
	return true
}

func (l *ledger) position() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

func (l *ledger) take(seq uint64, subject string, h nats.Header, data []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if seq <= l.last {
		return
	}
	l.last = seq
	kind := h.Get("ce-type")
	if kind != "pollcast.event.v1" && kind != "pollcast.deletion.v1" {
		return
	}
	s := stored{seq: seq, deleted: kind == "pollcast.deletion.v1", data: hash(data)}
	var err error
	if s.version, err = strconv.ParseUint(h.Get("ce-version"), 10, 64); err != nil {
		l.t.Errorf("message %d: version: %v", seq, err)
	}
	if s.asOf, err = time.Parse(time.RFC3339Nano, h.Get("ce-asof")); err != nil {
		l.t.Errorf("message %d: asOf: %v", seq, err)
	}
	topic := strings.TrimPrefix(subject, "pollcast.in.")
	l.topics[topic] = append(l.topics[topic], s)
}

// publisherKnows records an acknowledged event.
func (l *ledger) publisherKnows(seq uint64, a ack) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[seq] = a
}

// lastAcked returns the last sequence number that a publisher received.
func (l *ledger) lastAcked() (last uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for seq := range l.acked {
		last = max(last, seq)
	}
	return last
}

// complete waits until the ledger has reached the stream's end, and compares it
// with the publishers' acknowledgements.
func (l *ledger) complete() {
	l.t.Helper()
	within(l.t, clusterPatience, "the oracle has read the stream", func() error {
		ctx, cancel := context.WithTimeout(l.t.Context(), 2*time.Second)
		defer cancel()
		s, err := l.js.Stream(ctx, "POLLCAST")
		if err != nil {
			return err
		}
		last, at := s.CachedInfo().State.LastSeq, l.position()
		if at+20 < last || at < l.lastAcked() { // freshness records continue
			return fmt.Errorf("at %d of %d", at, last)
		}
		return nil
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	for topic, events := range l.topics {
		var before stored
		for _, e := range events {
			switch {
			case e.version == before.version+1:
			case e.version > before.version && e.deleted:
				l.holes[topic] = append(l.holes[topic], hole{before.seq, e.seq})
			default:
				l.t.Errorf("%s: version %d at %d follows version %d at %d: the publisher is wrong, or JetStream's consumer has "+
					"missed what the stream holds in between: %s",
					topic, e.version, e.seq, before.version, before.seq, l.between(topic, before.seq, e.seq))
			}
			if e.asOf.Before(before.asOf) {
				l.t.Errorf("%s: asOf of version %d is before that of the one before", topic, e.version)
			}
			before = e
		}
	}
	for seq, a := range l.acked {
		if e, ok := l.at(a.topic, seq); !ok || e.version != a.version {
			l.t.Fatalf("%s: version %d was acknowledged at %d, where the stream has %+v", a.topic, a.version, seq, e)
		}
	}
}

// at returns the event of a topic at a sequence number.
func (l *ledger) at(topic string, seq uint64) (stored, bool) {
	events := l.topics[topic]
	if i := after(events, seq-1); i < len(events) && events[i].seq == seq {
		return events[i], true
	}
	return stored{}, false
}

// between asks the stream's leader for the versions of a topic between two
// positions.
func (l *ledger) between(topic string, from, to uint64) string {
	s, err := l.js.Stream(l.t.Context(), "POLLCAST")
	if err != nil {
		return err.Error()
	}
	var found []string
	for seq := from; seq <= to; seq++ {
		m, err := s.GetMsg(l.t.Context(), seq)
		if err == nil && m.Subject == "pollcast.in."+topic {
			found = append(found, fmt.Sprintf("%s at %d", m.Header.Get("ce-version"), seq))
		}
	}
	return strings.Join(found, ", ")
}

// gone reports whether the stream may have held an event of the topic at seq, or
// just before, that a deletion removed before it was read.
func (l *ledger) gone(topic string, seq uint64) bool {
	for _, h := range l.holes[topic] {
		if h.from < seq && seq <= h.to {
			return true
		}
	}
	return false
}

// after returns the index of the first event after a sequence number.
func after(events []stored, seq uint64) int {
	return sort.Search(len(events), func(i int) bool { return events[i].seq > seq })
}

// until returns the last event at or before a sequence number.
func until(events []stored, seq uint64) (stored, bool) {
	if i := after(events, seq); i > 0 {
		return events[i-1], true
	}
	return stored{}, false
}

// count returns the number of events.
func (l *ledger) count() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, events := range l.topics {
		n += len(events)
	}
	return n
}

// matches reports whether a pattern matches a topic, written from
// docs/protocol.md only.
func matches(pattern, topic string) bool {
	p, t := strings.Split(pattern, "."), strings.Split(topic, ".")
	for i, token := range p {
		if token == ">" {
			return len(t) > i
		}
		if i >= len(t) || token != "*" && token != t[i] {
			return false
		}
	}
	return len(p) == len(t)
}

func anyMatches(patterns []string, topic string) bool {
	for _, p := range patterns {
		if matches(p, topic) {
			return true
		}
	}
	return false
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

var hashSeed = maphash.MakeSeed()

// hash identifies a value: hundreds of clients keep one for every event. Pollers
// write JSON without spaces, and gateways do not change it.
func hash(data []byte) uint64 { return maphash.Bytes(hashSeed, data) }
