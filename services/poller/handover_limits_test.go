package poller

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/history"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

// A Retry-After that opened no circuit holds for the next owner, too, also when
// another upstream answered in its stead.
func TestRestartKeepsRetryAfter(t *testing.T) {
	t.Parallel()
	for _, second := range []bool{false, true} {
		t.Run(fmt.Sprint("with another upstream: ", second), func(t *testing.T) {
			t.Parallel()
			s, good := bustest.Start(t), newRPC(t)
			var calls atomic.Int32
			busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				calls.Add(1)
				w.Header().Set("Retry-After", "60")
				w.WriteHeader(429)
			}))
			t.Cleanup(busy.Close)
			c := oneSource(busy.URL, 100*time.Millisecond, time.Hour)
			src := c.Sources["host"]
			if second {
				src.Upstreams = append(src.Upstreams, good.URL)
			}
			c.Sources["host"] = src
			w := watch(t, s)
			fresh := func(after int32) *event.Freshness {
				return w.fresh("after the answer", func(f *event.Freshness) bool {
					return calls.Load() > after && f.Stale != second && (second || strings.HasPrefix(f.Detail, "HTTP 429") || after == 0)
				})
			}
			first := run(t, c, s.Config())
			fresh(0)
			wait := first.Status().Sources[0].Upstreams[0].WaitUntil
			if left := time.Until(wait); left < 30*time.Second {
				t.Fatalf("it waits for %v", left)
			}
			first.stop()
			n := calls.Load()
			next := run(t, c, s.Config())
			pollertest.Eventually(t, "five ticks", func() bool {
				st := next.Status().Sources[0].Polls
				return len(st) == 1 && (second && good.count() >= 6 || st[0].Skipped >= 5)
			})
			if have := next.Status().Sources[0].Upstreams[0].WaitUntil; calls.Load() != n || have.Sub(wait).Abs() > 2*time.Millisecond {
				t.Errorf("%d calls after the restart, and it waits until %v, not %v", calls.Load()-n, have, wait)
			}
		})
	}
}

// What was asked of an upstream in the last minute counts for the next owner,
// too: with one poller after another there are no more calls than with one.
func TestRestartKeepsQuota(t *testing.T) {
	t.Parallel()
	s, u := bustest.Start(t), newRPC(t)
	const most = 6
	c := oneSource(u.URL, 12*time.Second, time.Hour)
	src := c.Sources["host"]
	src.MaxCallsPerMinute = most
	c.Sources["host"] = src
	for range most + 2 {
		p := run(t, c, s.Config()) // which asks at once
		pollertest.Eventually(t, "it asks, or may not", func() bool {
			st := p.Status().Sources[0].Polls
			return len(st) == 1 && (st[0].LastOutcome == history.OutcomeOK && !st[0].Unpublished || st[0].Skipped > 0)
		})
		p.stop()
	}
	if n := u.count(); n != most {
		t.Errorf("%d calls, want %d", n, most)
	}
}
