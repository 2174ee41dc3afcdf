package runner

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
)

// Neither the freshness record nor the breaker record quotes an answer; the
// poller's own status and log do.
func TestDetailIsDiscreet(t *testing.T) {
	s := newStage(t, config.Source{Polls: map[string]config.Poll{
		"select": {Interval: time.Second, Method: "a", Select: ".name.first"},
		"key":    {Interval: time.Second, Method: "b", Each: ".[]", Key: ".id"},
		"twice":  {Interval: time.Second, Method: "c", Each: ".[]", Key: ".id"},
		"ask":    {Interval: time.Second, Method: "d", Params: []any{"{{ if $prev then $prev.x | fromhex else 0 end }}"}},
	}}, func(_ context.Context, _, method string) (string, error) {
		return map[string]string{
			"a": `{"name":"sesame"}`, "b": `[{"id":"a"},"sesame"]`, "c": `[{"id":"sesame"},{"id":"sesame"}]`, "d": `{"x":"sesame"}`,
		}[method], nil
	})
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.start()
		defer s.end()
		time.Sleep(3 * time.Second)
		_, fresh := s.said()
		if len(fresh) < 4 {
			t.Fatalf("%d freshness records", len(fresh))
		}
		for _, f := range fresh {
			if f.Stale && f.Reason != event.BadResponse && f.Reason != event.RequestRejected || strings.Contains(f.Detail, "sesame") {
				t.Errorf("%s: %s, detail %q", f.Poll, f.Reason, f.Detail)
			}
		}
		for i, want := range []string{
			`the request cannot be made: params[0]: fromhex cannot be applied to "sesame"`,
			`item 2: key: expected an object but got: string ("sesame")`,
			`select: expected an object but got: string ("sesame")`,
			`key "sesame" comes twice, with items 1 and 2`,
		} {
			st := s.r.Polls[i].Status()
			if !strings.HasPrefix(st.Detail, want) {
				t.Errorf("status of %s: %q, want %q", st.Poll, st.Detail, want)
			}
		}
	})
}
