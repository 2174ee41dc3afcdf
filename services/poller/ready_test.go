package poller

import (
	"strings"
	"testing"
	"time"

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
