package poller

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
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
			eventually(t, "five ticks", func() bool {
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
		eventually(t, "it asks, or may not", func() bool {
			st := p.Status().Sources[0].Polls
			return len(st) == 1 && (st[0].LastOutcome == outcomeOK && !st[0].Unpublished || st[0].Skipped > 0)
		})
		p.stop()
	}
	if n := u.count(); n != most {
		t.Errorf("%d calls, want %d", n, most)
	}
}

// A quota that learns what another owner has spent, second by second, lets as
// much through as if it had spent it itself, a second later at most.
func TestQuotaLearns(t *testing.T) {
	now := time.Now()
	first := &quota{most: 60}
	for i := range 30 { // one a second, then ten at once
		first.take(now.Add(time.Duration(i) * time.Second))
	}
	at := now.Add(29*time.Second + 500*time.Millisecond)
	for range 10 {
		first.take(at)
	}
	told := first.spent(at)
	if want := append([]int{11}, slices.Repeat([]int{1}, 29)...); !slices.Equal(told, want) {
		t.Fatalf("spent %v, want %v", told, want)
	}
	for _, next := range []*quota{{most: 60}, first} {
		later := at.Add(2200 * time.Millisecond)
		next.learn(later, 2200*time.Millisecond, told)
		var got []int
		for i := range 62 {
			n := 0
			for next.take(later.Add(time.Duration(i) * time.Second)) {
				n++
			}
			got = append(got, n)
		}
		sum, start := 0, got[0]
		for _, n := range got[:28] {
			sum += n
		}
		if start != 20 || sum > 22 {
			t.Errorf("lets %v through", got)
		}
	}
	if have := (&quota{}).spent(now); have != nil {
		t.Errorf("spent without a bound: %v", have)
	}
}

// The last word on a poll that was taken out tells nothing of the upstreams, and
// is no word that nothing was asked.
func TestRemovedPollKeepsQuota(t *testing.T) {
	s := newStage(t, Source{MaxCallsPerMinute: 30, Polls: map[string]Poll{"a": {Interval: 10 * time.Second, Method: "a"}}},
		func(context.Context, string, string) (string, error) { return `1`, nil })
	now := time.Now()
	u := s.r.upstreams.list[0]
	s.r.restoreCircuits(map[string]remains{
		"a": {
			fresh:    &event.Freshness{Fence: 7, CheckedAt: now.Add(-2 * time.Second)},
			circuits: []event.Circuit{{Upstream: u.name, Calls: []int{4, 5}}},
		},
		"b": {
			fresh:    &event.Freshness{Fence: 6, CheckedAt: now},
			circuits: []event.Circuit{{Upstream: u.name, Calls: []int{20}}},
		},
		"removed": {fresh: &event.Freshness{Fence: 7, CheckedAt: now.Add(-time.Second), Stale: true, Detail: removedDetail}},
	}, bus.Message{})
	spent := 0
	for _, n := range u.quota.spent(now) {
		spent += n
	}
	if spent != 9 {
		t.Errorf("%d calls are known, want 9", spent)
	}
}

// That an upstream failed is told in the same tick, also when another one
// answered and there is nothing else to say.
func TestFailOverIsTold(t *testing.T) {
	c := slowSource("http://one", "http://two")
	c.Polls["a"] = Poll{Interval: 10 * time.Second, MaxAge: time.Hour, Method: "a", Select: "1"}
	up := &script{}
	s := newStage(t, c, up.answer)
	var told []event.Circuit
	s.onPut = func(j job) { told = j.circuits }
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.start()
		defer s.end()
		time.Sleep(time.Second)
		for want := range 4 {
			s.mu.Lock()
			have := slices.Clone(told)
			s.mu.Unlock()
			if want == 0 && len(have) > 0 || want > 0 && (len(have) != 1 || have[0].Failures != want) {
				t.Errorf("after %d failures: %+v", want, have)
			}
			up.set("http://one", fails)
			s.wantTick("fail-over", "one+0s two+0s")
		}
	})
}
