package poller

import (
	"strings"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/clock/clocktest"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

// The wall clock is set forward and back by an hour, and back by a little, while
// a poller runs: polling goes on at its pace, every change becomes one event,
// the breaker opens and recovers in its time, and no age is below zero or
// younger than the truth.
func TestClockIsSet(t *testing.T) {
	for _, by := range []time.Duration{time.Hour, -time.Hour, -3 * time.Second} {
		t.Run(by.String(), func(t *testing.T) {
			defer clocktest.WallOffset.Store(0)
			s, u := bustest.Start(t), newRPC(t)
			w := watch(t, s)
			p := run(t, oneSource(u.URL, 100*time.Millisecond, 400*time.Millisecond), s.Config())
			last := w.event()
			change := func() {
				t.Helper()
				u.change()
				e := w.event()
				if e.Version != last.Version+1 {
					t.Errorf("version %d after %d", e.Version, last.Version)
				}
				last = e
			}
			for range 3 {
				change()
			}
			calls, from := u.count(), time.Now()
			clocktest.WallOffset.Store(int64(by))
			for range 5 {
				change()
				// And the old value again, in slots that were used by others if the clock was set back.
				u.mu.Lock()
				u.value -= 2
				u.mu.Unlock()
				change()
			}
			if n, most := u.count()-calls, int(time.Since(from)/(100*time.Millisecond))+3; n > most {
				t.Errorf("%d polls in %v", n, time.Since(from))
			}
			u.set("503")
			f := w.fresh("stale", func(f *event.Freshness) bool { return f.Stale })
			truth, asOf := time.Now(), f.AsOf
			if age := f.CheckedAt.Sub(f.AsOf); age < 0 || age > pollertest.Patience {
				t.Errorf("age %v: %+v", age, f)
			}
			w.fresh("open", func(f *event.Freshness) bool { return f.Breaker == event.Open })
			opened := time.Now()
			// Once more, while it is stale.
			clocktest.WallOffset.Add(int64(by))
			f = w.fresh("a record after that", func(f *event.Freshness) bool {
				return f.CheckedAt.Sub(f.AsOf) < 0 || f.CheckedAt.Sub(asOf).Abs() > time.Second
			})
			if age, least := f.CheckedAt.Sub(f.AsOf), time.Since(truth)-pollertest.Patience/10; age < 0 || age < least-2*time.Second {
				t.Errorf("age %v after at least %v: %+v", age, least, f)
			}
			u.set("")
			w.fresh("fresh again", func(f *event.Freshness) bool { return !f.Stale })
			if took := time.Since(opened); took > pollertest.Patience/2 {
				t.Errorf("recovered after %v", took)
			}
			change()
			if st := p.Status().Sources[0]; !st.Owned || st.Polls[0].AsOf.After(clock.Now()) {
				t.Errorf("status %+v", st)
			}
			if n := strings.Count(p.log.String(), "lease acquired"); n != 1 {
				t.Errorf("%d leases", n)
			}
			for _, line := range strings.Split(gather(t, p.reg), "\n") {
				if strings.HasPrefix(line, "pollcast_poller_age_seconds") && strings.Contains(line, " -") {
					t.Errorf("metric %s", line)
				}
			}
		})
	}
}
