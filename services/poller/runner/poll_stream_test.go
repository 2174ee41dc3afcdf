package runner

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
)

// While the stream takes nothing, polling goes on and the newest value waits.
func TestPollStreamDown(t *testing.T) {
	n := 0
	s := newStage(t, config.Source{Polls: map[string]config.Poll{"a": {Interval: time.Second, Method: "a"}}},
		func(context.Context, string, string) (string, error) {
			n++
			return fmt.Sprint(n), nil
		})
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.down = true // before anybody looks
		s.start()
		defer s.end()
		time.Sleep(30 * time.Second)
		if n := s.count("http://one"); n < 30 {
			t.Fatalf("%d polls in 30 s without a stream", n)
		}
		if !s.r.Polls[0].Status().Unpublished {
			t.Error("status does not say that something waits")
		}
		s.mu.Lock()
		s.down = false
		s.mu.Unlock()
		s.r.WakePolls()
		synctest.Wait()
		events, _ := s.said()
		if len(events) != 1 || events[0].Version != 1 {
			t.Fatalf("events when the stream is back: %+v", events)
		}
		if have, want := string(events[0].Data), fmt.Sprint(s.count("http://one")); have != want {
			t.Errorf("value %s, want the newest, %s", have, want)
		}
		if f := s.last(0); f.Stale || !f.AsOf.Equal(events[0].AsOf) {
			t.Errorf("freshness %+v", f)
		}
	})
}

// An unchanged value costs a renewal every max(interval, maxAge/3).
func TestPollRenewal(t *testing.T) {
	for _, tt := range []struct {
		maxAge   time.Duration
		low, top int
	}{{3 * time.Second, 59, 62}, {30 * time.Second, 6, 8}, {2 * time.Second, 59, 62}} {
		t.Run(tt.maxAge.String(), func(t *testing.T) {
			s := newStage(t, config.Source{Polls: map[string]config.Poll{"a": {Interval: time.Second, MaxAge: tt.maxAge, Method: "a"}}},
				func(context.Context, string, string) (string, error) {
					return fmt.Sprintf(`{"a": 1, "b": [%s]}`, strings.Repeat(" ", time.Now().Second())), nil
				})
			synctest.Test(t, func(t *testing.T) {
				s.T = t
				s.start()
				defer s.end()
				time.Sleep(time.Minute)
				events, fresh := s.said()
				if len(events) != 1 || len(fresh) < tt.low || len(fresh) > tt.top {
					t.Errorf("%d events and %d records in 60 ticks, want 1 and %d to %d", len(events), len(fresh), tt.low, tt.top)
				}
				for i := 1; i < len(fresh); i++ {
					if gap := fresh[i].CheckedAt.Sub(fresh[i-1].CheckedAt); gap > tt.maxAge {
						t.Errorf("%v without a record", gap)
					}
				}
			})
		})
	}
}

// With a second upstream the failure of the first is bridged, and its probe
// does not show.
func TestPollSecondUpstream(t *testing.T) {
	var mu sync.Mutex
	failing := map[string]bool{"http://one": true}
	s := newStage(t, config.Source{
		Upstreams: []string{"http://one", "http://two"},
		Breaker:   config.Breaker{Failures: 3, OpenFor: 10 * time.Second},
		Polls:     map[string]config.Poll{"a": {Interval: time.Second, Method: "a"}},
	}, func(_ context.Context, upstream, _ string) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if failing[upstream] {
			return "", errFake
		}
		return fmt.Sprintf("%q", upstream), nil
	})
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.start()
		defer s.end()
		time.Sleep(5 * time.Second)
		s.wantLast("bridged", 0, false, "", event.Closed, 0)
		events, fresh := s.said()
		if e := events[len(events)-1]; e.Upstream != "http://two" {
			t.Errorf("answered by %q", e.Upstream)
		}
		records := len(fresh)
		time.Sleep(30 * time.Second)
		_, fresh = s.said()
		for _, f := range fresh[records:] {
			if f.Stale {
				t.Fatalf("a probe of the first upstream shows: %+v", f)
			}
		}
		if n := s.count("http://one"); n != 3+3 {
			t.Errorf("%d calls to the first upstream, want 3 failures and 3 probes", n)
		}
		mu.Lock()
		failing["http://one"], failing["http://two"] = false, true
		mu.Unlock()
		time.Sleep(20 * time.Second)
		s.wantLast("back at the first", 0, false, "", event.Closed, 0)
		events, _ = s.said()
		if e := events[len(events)-1]; e.Upstream != "http://one" {
			t.Errorf("answered by %q", e.Upstream)
		}
		mu.Lock()
		failing["http://one"] = true
		mu.Unlock()
		time.Sleep(20 * time.Second)
		if f := s.last(0); !f.Stale || f.Breaker == event.Closed {
			t.Errorf("both fail: %+v", f)
		}
	})
}

func TestPollPanic(t *testing.T) {
	s := newStage(t, config.Source{Polls: map[string]config.Poll{"a": {Interval: time.Second, Method: "a"}}},
		func(context.Context, string, string) (string, error) { panic("whose value says too much") })
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.start()
		defer s.end()
		time.Sleep(3 * time.Second)
		if f := s.last(0); f.Reason != event.BadResponse || f.Detail != "panic: string" || !f.AsOf.IsZero() {
			t.Errorf("record %+v", f)
		}
	})
	if n := strings.Count(s.logs.String(), "driver or expression panicked"); n != 1 {
		t.Errorf("%d lines about the panic, want 1", n)
	}
}

// A value that NATS would refuse is a failure, but not the upstream's.
func TestPollTooLongForNATS(t *testing.T) {
	s := newStage(t, config.Source{Polls: map[string]config.Poll{"a": {Interval: time.Second, Method: "a"}}},
		func(context.Context, string, string) (string, error) {
			return `"` + strings.Repeat("x", 2<<20) + `"`, nil
		})
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.start()
		defer s.end()
		time.Sleep(20 * time.Second)
		if f := s.last(0); f.Reason != event.BadResponse || f.Breaker != event.Closed || !strings.Contains(f.Detail, "max_payload") {
			t.Errorf("record %+v", f)
		}
	})
}
