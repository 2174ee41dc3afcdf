package e2e

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
)

// storedEvent is an event as the stream or a subscriber has it.
type storedEvent struct {
	seq, version uint64
	data         string
}

// topicRecord is everything that the stream holds of a poll.
type topicRecord struct {
	events []storedEvent
	fences []uint64 // of its lease holders, in their order
}

// readStream reads the whole stream, message by message.
func readStream(t testing.TB, n *natsServer) map[string]*topicRecord {
	t.Helper()
	js, err := n.connect("poller").JetStream()
	if err != nil {
		t.Fatal(err)
	}
	info, err := js.StreamInfo("POLLCAST")
	if err != nil {
		t.Fatal(err)
	}
	all, ids := map[string]*topicRecord{}, map[string]uint64{}
	for seq := uint64(1); seq <= info.State.LastSeq; seq++ {
		m, err := js.GetMsg("POLLCAST", seq, nats.DirectGet())
		if err != nil {
			t.Fatalf("message %d: %v", seq, err)
		}
		if id := m.Header.Get("ce-id"); ids[id] > 0 {
			t.Errorf("message %d has the id of message %d: %s", seq, ids[id], id)
		} else {
			ids[id] = seq
		}
		topic, isFresh := strings.CutSuffix(strings.TrimPrefix(m.Subject, "pollcast.in."), "._fresh")
		r := all[topic]
		if r == nil {
			r = &topicRecord{}
			all[topic] = r
		}
		fence := number(t, m.Header, "ce-fence")
		if n := len(r.fences); n == 0 || fence > r.fences[n-1] {
			r.fences = append(r.fences, fence)
		} else if fence < r.fences[n-1] {
			t.Errorf("message %d: %s of fence %d after one of fence %d: the record of a fenced poller was stored", seq, topic,
				fence, r.fences[n-1])
		}
		if !isFresh {
			r.events = append(r.events, storedEvent{seq, number(t, m.Header, "ce-version"), string(m.Data)})
		}
	}
	return all
}

func number(t testing.TB, h nats.Header, name string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(h.Get(name), 10, 64)
	if err != nil {
		t.Errorf("header %s: %v", name, err)
	}
	return n
}

// liveLog collects the events that a plain subscriber receives.
type liveLog struct {
	mu     sync.Mutex
	events map[string][]storedEvent
}

// listenAll subscribes to everything until the test ends.
func listenAll(t testing.TB, n *natsServer) *liveLog {
	t.Helper()
	l := &liveLog{events: map[string][]storedEvent{}}
	nc := n.connect("reader")
	sub, err := nc.Subscribe("pollcast.live.>", func(m *nats.Msg) {
		topic := strings.TrimPrefix(m.Subject, "pollcast.live.")
		if strings.HasSuffix(topic, "._fresh") || strings.HasSuffix(topic, "._breaker") {
			return
		}
		e := storedEvent{number(t, m.Header, "Nats-Sequence"), number(t, m.Header, "ce-version"), string(m.Data)}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.events[topic] = append(l.events[topic], e)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *liveLog) of(topic string) []storedEvent {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events[topic])
}
