package clocktest

import (
	"testing"
	"time"

	"github.com/pollcast/pollcast/services/poller/clock"
)

func TestSetWall(t *testing.T) {
	now := time.Now()
	for _, by := range []time.Duration{-time.Hour, time.Hour} {
		set := setWall(now, by)
		if set.Sub(now) != 0 || set.Round(0).Sub(now.Round(0)) != by {
			t.Fatalf("set by %v: monotonic %v, wall %v", by, set.Sub(now), set.Round(0).Sub(now.Round(0)))
		}
	}
}

func TestTold(t *testing.T) {
	now := time.Now()
	at := now.Add(-time.Minute)
	for _, tt := range []struct {
		name string
		at   time.Time
		set  time.Duration
		age  time.Duration
	}{
		{"untouched", at, 0, time.Minute},
		{"set back", at, -time.Hour, time.Minute},
		{"set forward", at, time.Hour, time.Hour + time.Minute},
		{"restored", clock.Anchor(at.Round(0), now), 0, time.Minute},
		{"restored, then set back", clock.Anchor(at.Round(0), now), -time.Hour, time.Minute},
		{"restored from a time to come", clock.Anchor(now.Add(time.Hour).Round(0), now), 0, 0},
	} {
		then := setWall(now, tt.set)
		if age := then.Round(0).Sub(clock.WallTime(tt.at, then)); age < tt.age || age > tt.age+time.Millisecond {
			t.Errorf("%s: age %v, want %v", tt.name, age, tt.age)
		}
	}
	if !clock.WallTime(time.Time{}, now).IsZero() || !clock.Anchor(time.Time{}, now).IsZero() {
		t.Error("never is a time")
	}
}
