package runner

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/record"
)

// The last word on a poll that was taken out tells nothing of the upstreams, and
// is no word that nothing was asked.
func TestRemovedPollKeepsQuota(t *testing.T) {
	s := newStage(t, config.Source{MaxCallsPerMinute: 30, Polls: map[string]config.Poll{"a": {Interval: 10 * time.Second, Method: "a"}}},
		func(context.Context, string, string) (string, error) { return `1`, nil })
	now := time.Now()
	u := s.r.Upstreams.List[0]
	s.r.restoreCircuits(map[string]record.Recovered{
		"a": {
			Fresh:    &event.Freshness{Fence: 7, CheckedAt: now.Add(-2 * time.Second)},
			Circuits: []event.Circuit{{Upstream: u.Name, Calls: []int{4, 5}}},
		},
		"b": {
			Fresh:    &event.Freshness{Fence: 6, CheckedAt: now},
			Circuits: []event.Circuit{{Upstream: u.Name, Calls: []int{20}}},
		},
		"removed": {Fresh: &event.Freshness{Fence: 7, CheckedAt: now.Add(-time.Second), Stale: true, Detail: RemovedDetail}},
	}, bus.Message{})
	spent := 0
	for _, n := range u.Quota.Spent(now) {
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
	c.Polls["a"] = config.Poll{Interval: 10 * time.Second, MaxAge: time.Hour, Method: "a", Select: "1"}
	up := &script{}
	s := newStage(t, c, up.answer)
	var told []event.Circuit
	s.onPut = func(j record.Job) { told = j.Circuits }
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
