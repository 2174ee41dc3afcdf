package e2e

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/event"
)

// publisher stores events as a poller would, of any topic, at any rate.
type publisher struct {
	t        testing.TB
	js       jetstream.JetStream
	names    bus.Names
	versions map[string]uint64
}

// publisher connects to a running NATS server and makes the stream.
func (n *natsServer) publisher(history int) *publisher {
	n.t.Helper()
	js, err := jetstream.New(n.connect("poller"))
	if err != nil {
		n.t.Fatal(err)
	}
	names, err := bus.NewNames("")
	if err != nil {
		n.t.Fatal(err)
	}
	cfg := bus.DefaultConfig()
	cfg.History = history
	if _, err := bus.EnsureStream(n.t.Context(), js, names, cfg); err != nil {
		n.t.Fatal(err)
	}
	return &publisher{t: n.t, js: js, names: names, versions: map[string]uint64{}}
}

// event stores the topic's next version and returns its sequence number.
func (p *publisher) event(topic, data string) uint64 {
	p.t.Helper()
	p.versions[topic]++
	now := time.Now().UTC()
	e := &event.Event{Topic: topic, Poll: topic, Data: json.RawMessage(data), Version: p.versions[topic], ChangedAt: now,
		AsOf: now, Fence: 1}
	m := p.names.EventMsg(e, now)
	m.Header.Set("Nats-Msg-Id", fmt.Sprintf("%s:%d", topic, e.Version))
	for attempt := 1; ; attempt++ { // its message id prevents a second copy
		ack, err := p.js.PublishMsg(p.t.Context(), m)
		if err == nil {
			return ack.Sequence
		}
		if attempt == 5 {
			p.t.Fatal(err)
		}
	}
}
