package runner

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/source"
)

// Ten calls are under way when the process stands still, and fail: the circuit
// stays closed, nothing is called stale, and each is made again.
func TestStandstill(t *testing.T) {
	const n = 10
	for _, tt := range []struct {
		name string
		lost func(tick int32) bool // whether the process stood still during a tick's call
		open bool
	}{
		{"once", func(tick int32) bool { return tick == 3 }, false},
		{"twice", func(tick int32) bool { return tick == 3 || tick == 6 }, false},
		{"always", func(tick int32) bool { return tick >= 3 }, true}, // and nothing comes through
		{"never", func(int32) bool { return false }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var p clock.Pulse
			var ticks [n]atomic.Int32
			polls := map[string]config.Poll{}
			for i := range n {
				polls[fmt.Sprint(i)] = config.Poll{Interval: 10 * time.Second, Timeout: 4 * time.Second, Method: fmt.Sprint(i)}
			}
			s := newStage(t, config.Source{Polls: polls}, func(ctx context.Context, _, method string) (string, error) {
				tick := ticks[method[0]-'0'].Add(1)
				stands := tt.lost(tick)
				if !stands && (!tt.open || tick < 3) {
					return "1", nil
				}
				<-ctx.Done()
				if stands {
					p.SetPaused(3 * time.Second * time.Duration(tick)) // all together
				}
				return "", &source.Failure{Reason: event.Timeout, Detail: "no answer", Counts: true}
			})
			s.r.Pulse = &p
			for _, poll := range s.r.Polls { // all at the same time
				*poll.Schedule = config.NewSchedule("same", 10*time.Second)
				poll.Schedule.Exact = true
			}
			synctest.Test(t, func(t *testing.T) {
				s.T = t
				s.start()
				defer s.end()
				time.Sleep(100 * time.Second)
				state := s.r.Upstreams.List[0].Circuit.Snapshot().State
				_, fresh := s.said()
				stale := 0
				for _, f := range fresh {
					if f.Stale && f.Reason == event.Timeout {
						stale++
					}
				}
				if open := state != event.Closed; open != tt.open || stale > 0 != tt.open {
					t.Errorf("the circuit is %s, %d records say stale", state, stale)
				}
				for i := range ticks {
					// The tick that was robbed is made up for within a second.
					if have := ticks[i].Load(); !tt.open && have < 11 {
						t.Errorf("poll %d was asked %d times", i, have)
					}
				}
			})
		})
	}
}
