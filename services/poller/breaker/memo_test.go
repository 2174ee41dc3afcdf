package breaker

import (
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
)

// TestCircuitAdopt checks that the newest memo counts, in whatever order they are read.
func TestCircuitAdopt(t *testing.T) {
	t.Parallel()
	b := newBench(t, Rule{Failures: 5, OpenFor: time.Minute})
	now := time.Now()
	closed := func(n int, ago time.Duration) event.Circuit {
		return event.Circuit{
			Upstream: "http://x", State: event.Closed, Failures: n, Cause: "HTTP 500", At: now.Add(-ago), Changes: 1,
		}
	}
	b.c.Adopt(closed(3, time.Hour), time.Time{})
	if s := b.c.Snapshot(); s.Streak != 3 || s.Cause != "HTTP 500" {
		t.Errorf("after a streak: %+v", s)
	}
	b.c.Adopt(closed(1, 2*time.Hour), time.Time{})
	other := closed(2, time.Minute)
	other.Upstream = "http://y"
	b.c.Adopt(other, time.Time{})
	if s := b.c.Snapshot(); s.Streak != 3 {
		t.Errorf("after what is older, and of another: %+v", s)
	}
	b.c.Adopt(closed(9, time.Minute), time.Time{}) // of a configuration with failures: 10
	b.wantState("more than enough", event.Closed, 0)
	b.poll(Failure)
	b.wantState("one more", event.Open, 1)
	late := closed(0, 0)
	late.At = time.Now().Add(time.Second)
	b.c.Adopt(late, time.Time{})
	b.wantState("closed by another owner", event.Closed, 1)
}
