package poller

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/pollertest"
	"github.com/pollcast/pollcast/services/poller/record"
)

// Events that an older owner had under way are stored after a new one has read
// the stream, and before it has said anything: no version is given twice, also
// of keys, and also when these are the first events of all.
func TestTakeOverBetween(t *testing.T) {
	for _, c := range []struct {
		name          string
		keyed, before bool
	}{
		{"value", false, true}, {"first value", false, false},
		{"key", true, true}, {"first key", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, u := bustest.Start(t), newRPC(t)
			config := oneSource(u.URL, 100*time.Millisecond, time.Hour)
			const poll = "host.system.status"
			topic := poll
			if c.keyed {
				p := config.Sources["host"].Polls["system.status"]
				p.Each, p.Key = "to_entries[]", ".key"
				config.Sources["host"].Polls["system.status"] = p
				topic += ".n"
			}
			w := watch(t, s)
			if c.before {
				first := run(t, config, s.Config())
				w.event()
				w.fresh("confirmed", func(f *event.Freshness) bool { return !f.Stale })
				first.stop()
			}
			_, js, names := s.JetStream()
			m := record.NewMetrics()
			pub := &record.Publisher{Conn: s.Bus(), Names: names, Metrics: m, Repair: func(context.Context) error { return nil }}
			var guard uint64
			late := func(topic string, slot time.Time) error {
				last, err := pub.Last(context.Background(), names.In(topic))
				if err != nil {
					return err
				}
				e := &event.Event{Topic: topic, Poll: poll, Data: []byte(`100`), Version: 1, Fence: 1, AsOf: clock.Stamp(slot), ChangedAt: clock.Stamp(slot)}
				if c.keyed {
					e.Key = topic[len(poll)+1:]
				}
				if last.Event != nil {
					e.Version, e.Fence = last.Event.Version+1, last.Event.Fence
				}
				_, err = js.PublishMsg(context.Background(), names.EventMsg(e, slot), jetstream.WithExpectLastSequenceForSubject(guard, names.InFresh(poll)))
				return err
			}
			log := &pollertest.LogLines{On: func(line string) {
				if !strings.Contains(line, "lease acquired, polling") {
					return
				}
				last, err := pub.Last(context.Background(), names.InFresh(poll))
				guard = last.Seq
				if err = errors.Join(err, late(topic, time.Now().Add(-time.Minute))); c.keyed {
					err = errors.Join(err, late(poll+".ghost", time.Now().Add(-time.Minute)))
				}
				if err != nil {
					t.Error(err)
				}
			}}
			u.change()
			runLogging(t, config, s.Config(), log)
			w.until("the upstream's value", func(m bus.Message) bool {
				return m.Event != nil && m.Event.Topic == topic && m.Event.Upstream != "" && strings.Contains(string(m.Event.Data), "1")
			})
			w.fresh("confirmed", func(f *event.Freshness) bool { return !f.Stale })
			if err := late(topic, time.Now()); err == nil {
				t.Error("an older owner's event was stored after all")
			}
			versions, ghost := map[string]uint64{}, false
			for _, m := range w.seen {
				if e := m.Event; e != nil {
					if versions[e.Topic]++; e.Version != versions[e.Topic] {
						t.Errorf("event %d of %s: %s", versions[e.Topic], e.Topic, pollertest.Show(m))
					}
					ghost = ghost || e.Deleted
				}
			}
			if c.keyed && !ghost {
				w.until("the key that is not there is deleted", func(m bus.Message) bool { return m.Event != nil && m.Event.Deleted })
			}
		})
	}
}
