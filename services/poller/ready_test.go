package poller

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

// Readiness says what keeps the stream from being made, not only that it is
// missing.
func TestReadySaysWhy(t *testing.T) {
	s, u := bustest.StartLimited(t, 64<<20), newRPC(t)
	b := s.Config()
	b.MaxBytes = 1 << 30
	p := run(t, oneSource(u.URL, 100*time.Millisecond, time.Hour), b)
	pollertest.Eventually(t, "the cause is said", func() bool {
		err := p.Ready()
		return err != nil && strings.Contains(err.Error(), "JetStream is not ready: create or update stream") && strings.Contains(err.Error(), "insufficient storage")
	})
	if have := p.Status().Problem; !strings.Contains(have, "insufficient storage") {
		t.Errorf("status says %q", have)
	}
}

// A poller whose records NATS does not store is not ready, and says why. A NATS that
// cannot write to its disk answers nothing at all, as one whose stream is set to
// acknowledge nothing.
func TestReadyWhileNothingIsStored(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		harm func(*jetstream.StreamConfig)
		want string
	}{
		{"silent", func(c *jetstream.StreamConfig) { c.NoAck = true }, "look at its log and its disk"},
		{"full", func(c *jetstream.StreamConfig) { c.MaxBytes, c.Discard = 1, jetstream.DiscardNew }, "maximum bytes exceeded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, u := bustest.Start(t), newRPC(t)
			_, js, names := s.JetStream()
			w := watch(t, s)
			p := runPrepared(t, oneSource(u.URL, 100*time.Millisecond, time.Hour), s.Config(), &pollertest.LogLines{}, func(p *Poller) {
				p.publishTimeout = time.Second
			})
			w.event()
			pollertest.Eventually(t, "ready", func() bool { return p.Ready() == nil })
			config := names.StreamConfig(s.Config())
			c.harm(&config)
			update(t, js, config)
			u.change()
			pollertest.Eventually(t, "not ready, and why", func() bool {
				err := p.Ready()
				return errors.Is(err, bus.ErrStoresNothing) && strings.Contains(err.Error(), c.want)
			})
			update(t, js, names.StreamConfig(s.Config()))
			pollertest.Eventually(t, "ready again", func() bool { return p.Ready() == nil })
		})
	}
}
