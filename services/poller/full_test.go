package poller

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

// A stream that takes nothing, because it is full or sealed, or its server has
// no storage left: polling goes on under the same lease, status, metric and log
// say that values wait, and when there is room again the newest is stored, as
// the next version.
func TestStreamFull(t *testing.T) {
	t.Parallel()
	const storage = 8 << 20
	for _, c := range []struct {
		name       string
		full, room func(t *testing.T, js jetstream.JetStream, normal jetstream.StreamConfig)
		log        string // what the line about it says
		polls      int    // how many of each value have to be made
	}{
		{"messages", func(t *testing.T, js jetstream.JetStream, c jetstream.StreamConfig) {
			c.MaxMsgs, c.Discard = 1, jetstream.DiscardNew
			update(t, js, c)
		}, update, "maximum messages exceeded", 2},
		{"bytes", func(t *testing.T, js jetstream.JetStream, c jetstream.StreamConfig) {
			c.MaxBytes, c.Discard = 1, jetstream.DiscardNew
			update(t, js, c)
		}, update, "maximum bytes exceeded", 2},
		{"storage", func(t *testing.T, js jetstream.JetStream, _ jetstream.StreamConfig) {
			if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OTHER", Subjects: []string{"other"}}); err != nil {
				t.Fatal(err)
			}
			pollertest.Eventually(t, "the storage is full", func() bool {
				_, err := js.Publish(t.Context(), "other", make([]byte, storage/64))
				_, refused := errors.AsType[*jetstream.APIError](err)
				return refused
			})
		}, func(t *testing.T, js jetstream.JetStream, _ jetstream.StreamConfig) {
			if err := js.DeleteStream(t.Context(), "OTHER"); err != nil {
				t.Fatal(err)
			}
		}, "insufficient resources", 8}, // in more than two lease times
		{"sealed", func(t *testing.T, js jetstream.JetStream, c jetstream.StreamConfig) {
			c.Sealed = true
			update(t, js, c)
		}, func(t *testing.T, js jetstream.JetStream, c jetstream.StreamConfig) { // which is for good
			if err := js.DeleteStream(t.Context(), c.Name); err != nil {
				t.Fatal(err)
			}
		}, "invalid operation on sealed stream", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, u := bustest.StartLimited(t, storage), newRPC(t)
			b := s.Config()
			b.MaxBytes, b.LeaseTime = 1<<20, time.Second
			nc, js, names := s.JetStreamOf(b)
			w := watchOn(t, nc, names)
			p := run(t, oneSource(u.URL, 100*time.Millisecond, time.Hour), b)
			last := w.event()
			w.fresh("confirmed", func(f *event.Freshness) bool { return !f.Stale })
			c.full(t, js, names.StreamConfig(b))
			calls := u.count()
			const changes = 3
			for range changes {
				u.change()
				pollertest.Eventually(t, "polling goes on", func() bool { return u.count() >= calls+c.polls })
				calls = u.count()
			}
			pollertest.Eventually(t, "status says that values wait", func() bool { return p.Status().Sources[0].Polls[0].Unpublished })
			pollertest.Eventually(t, "the metric counts", func() bool {
				return !strings.Contains(gather(t, p.reg), `pollcast_poller_publish_errors_total{kind="event"} 0`)
			})
			if n := strings.Count(p.log.String(), "NATS does not take records"); n != 1 || !strings.Contains(p.log.String(), c.log) {
				t.Errorf("%d lines about it, want 1 that says %s", n, c.log)
			}
			before := len(w.seen)
			c.room(t, js, names.StreamConfig(b))
			e := w.event()
			if e.Version != last.Version+1 || string(e.Data) != fmt.Sprintf(`{"n":%d}`, changes) {
				t.Errorf("after it was full: %+v", e)
			}
			w.fresh("confirmed", func(f *event.Freshness) bool { return !f.Stale && f.AsOf.After(e.AsOf) && f.Fence == last.Fence })
			for _, m := range w.seen[before:] {
				if m.Event != nil && m.Event.Version != e.Version {
					t.Errorf("another event: %s", pollertest.Show(m))
				}
			}
			pollertest.Eventually(t, "nothing waits", func() bool { return !p.Status().Sources[0].Polls[0].Unpublished })
		})
	}
}

func update(t *testing.T, js jetstream.JetStream, c jetstream.StreamConfig) {
	t.Helper()
	if _, err := js.UpdateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}
