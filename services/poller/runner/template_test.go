package runner

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
)

// A request that cannot be made when the probe is due is not tried in a loop.
func TestTemplateFailsAtProbe(t *testing.T) {
	from := time.Date(2000, 1, 1, 0, 0, 8, 0, time.UTC).Unix() // synctest's clock begins at 2000
	s := newStage(t, config.Source{
		Breaker: config.Breaker{Failures: 5, OpenFor: 10 * time.Second},
		Polls: map[string]config.Poll{"a": {Interval: time.Second, Method: "a", Params: []any{
			fmt.Sprintf(`{{ if $now > %d and $now < %d then error("no") else 1 end }}`, from, from+40),
		}}},
	}, func(context.Context, string, string) (string, error) {
		if time.Now().Unix() < from+30 {
			return "", errFake
		}
		return "1", nil
	})
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.start()
		defer s.end()
		time.Sleep(45 * time.Second)
		s.mu.Lock()
		logs := s.logs.String()
		s.mu.Unlock()
		if n := strings.Count(logs, "breaker lets one probe through"); n > 5 {
			t.Errorf("%d probes in 45 s, one is due every 10 s", n)
		}
		time.Sleep(15 * time.Second)
		s.wantLast("asked again", 0, false, "", event.Closed, 0)
	})
}
