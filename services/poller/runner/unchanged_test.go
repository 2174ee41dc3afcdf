package runner

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pollcast/pollcast/services/poller/config"
)

// A source whose value stands still for an hour: no byte of it is sent twice,
// and readers hear that it is confirmed every max(interval, maxAge/3).
func TestUnchangedHour(t *testing.T) {
	for _, tt := range []struct{ interval, maxAge time.Duration }{
		{time.Second, 3 * time.Second}, {10 * time.Second, 5 * time.Minute}, {100 * time.Millisecond, time.Minute}, {time.Minute, 2 * time.Minute},
	} {
		t.Run(fmt.Sprint(tt.interval, " ", tt.maxAge), func(t *testing.T) { unchangedHour(t, tt.interval, tt.maxAge) })
	}
}

func unchangedHour(t *testing.T, interval, maxAge time.Duration) {
	s := newStage(t, config.Source{Polls: map[string]config.Poll{"a": {Interval: interval, MaxAge: maxAge, Method: "a"}}},
		func(context.Context, string, string) (string, error) {
			if time.Now().Second()%2 == 0 {
				return `{"a":1,"b":[2,3]}`, nil
			}
			return "{ \"b\": [2, 3],\n \"a\": 1 }", nil // the same value
		})
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.start()
		defer s.end()
		time.Sleep(time.Hour)
		synctest.Wait()
		events, fresh := s.said()
		if len(events) != 1 {
			t.Errorf("%d events, want 1", len(events))
		}
		every := max(interval, maxAge/3)
		want := int(time.Hour / every)
		if n := len(fresh); n < want*9/10 || n > want+want/10+2 {
			t.Errorf("%d records in an hour, want about %d", n, want)
		}
		for i := 1; i < len(fresh); i++ {
			gap := fresh[i].CheckedAt.Sub(fresh[i-1].CheckedAt)
			if gap > every+interval+2*config.MaxJitter || gap > maxAge || !fresh[i].AsOf.After(fresh[i-1].AsOf) || fresh[i].Stale {
				t.Fatalf("record %d comes %v after the last: %+v", i, gap, fresh[i])
			}
		}
		if age := time.Since(fresh[len(fresh)-1].AsOf); age > every+2*interval {
			t.Errorf("the last record is %v old", age)
		}
	})
}
