package runner

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/record"
)

// While all places are taken, polling goes on; what is said then is the newest,
// with the renewal that was due, and not what there was to say when the wait began.
func TestPlaces(t *testing.T) {
	var asked atomic.Int64
	s := newStage(t, config.Source{Polls: map[string]config.Poll{
		"quiet": {Interval: time.Second, Method: "quiet"}, "x": {Interval: time.Second, Method: "x"},
	}}, func(_ context.Context, _, method string) (string, error) {
		if method == "x" {
			return fmt.Sprint(asked.Add(1)), nil
		}
		return `0`, nil
	})
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.Places = make(record.Places, 1)
		s.start()
		defer s.end()
		time.Sleep(4 * time.Second)
		synctest.Wait()
		s.Places <- struct{}{}
		before, _ := s.said()
		from := asked.Load()
		time.Sleep(5500 * time.Millisecond)
		if events, _ := s.said(); len(events) > len(before) || asked.Load() < from+5 {
			t.Fatalf("%d events while no place is free, %d polls", len(events)-len(before), asked.Load()-from)
		}
		<-s.Places
		synctest.Wait()
		events, _ := s.said()
		if len(events) != len(before)+1 {
			t.Fatalf("%d events when there is a place, want 1", len(events)-len(before))
		}
		if e := events[len(events)-1]; string(e.Data) != fmt.Sprint(asked.Load()) || e.Version != events[len(events)-2].Version+1 {
			t.Errorf("event %d is %s, want the newest, %d", e.Version, e.Data, asked.Load())
		}
		young := func(when string) {
			for i, p := range s.r.Polls {
				if age := time.Since(s.last(i).AsOf); age > time.Second {
					t.Errorf("%s the record of %s is as of %v ago", when, p.Topic, age)
				}
			}
		}
		young("after several intervals")

		time.Sleep(500 * time.Millisecond)
		s.Places <- struct{}{}
		time.Sleep(950 * time.Millisecond) // in which the renewal of one tick waits
		<-s.Places
		synctest.Wait()
		young("after one interval")
	})
}
