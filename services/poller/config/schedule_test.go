package config

import (
	"fmt"
	"testing"
	"time"
)

func TestScheduleSlots(t *testing.T) {
	for _, interval := range []time.Duration{100 * time.Millisecond, 333 * time.Millisecond, 7 * time.Second, time.Hour} {
		a, b := NewSchedule("host.system.status", interval), NewSchedule("host.system.status", interval)
		if a != b || a.Phase < 0 || a.Phase >= interval {
			t.Fatalf("schedules of one name: %+v, %+v", a, b)
		}
		now := time.Date(2026, 5, 6, 7, 8, 9, 123456789, time.UTC)
		slot := a.Next(now)
		if wait := slot.Sub(now); wait <= 0 || wait > interval {
			t.Errorf("%v: next slot in %v", interval, wait)
		}
		if slot.Nanosecond()%1e6 != 0 {
			t.Errorf("%v: slot %v is no whole millisecond", interval, slot)
		}
		// Another replica that starts later has the same slots.
		later := a.Next(now.Add(12345 * interval).Add(interval / 3))
		if d := later.Sub(slot); d%interval != 0 {
			t.Errorf("%v: slots %v apart", interval, d)
		}
		for _, tt := range []struct {
			name     string
			now      time.Time
			min, max time.Duration // until the next tick
		}{
			{"on time", slot, interval, interval},
			{"late", slot.Add(interval / 4), interval / 2, interval},
			{"the clock runs slow", slot.Add(-2 * time.Millisecond), interval, interval + 2*time.Millisecond},
			{"set back a day", slot.Add(-24*time.Hour - interval/3), 1, interval},
			{"set forward a day", slot.Add(24*time.Hour + interval/3), 1, interval},
		} {
			if wait := a.After(slot, tt.now).Sub(tt.now); wait < tt.min || wait > tt.max {
				t.Errorf("%v, %s: next tick in %v, want %v to %v", interval, tt.name, wait, tt.min, tt.max)
			}
		}
		delays := map[time.Duration]bool{}
		for range 1000 {
			d := a.Delay(slot)
			if d < 0 || d > MaxJitter || d > interval/50 {
				t.Errorf("%v: delay %v", interval, d)
			}
			if beat := min(interval/100, MaxBeat); slot.Add(d).UnixNano()%int64(beat) != 0 {
				t.Errorf("%v: a tick at %v is not on a beat", interval, slot.Add(d))
			}
			delays[d] = true
		}
		if len(delays) < 2 {
			t.Errorf("%v: no jitter: %v", interval, delays)
		}
	}
}

// Polls of any name and any interval of a second and more are due together with
// others.
func TestScheduleBeats(t *testing.T) {
	now := time.Date(2026, 5, 6, 7, 8, 9, 123456789, time.UTC)
	due := map[time.Time]int{}
	for i := range 1000 {
		s := NewSchedule(fmt.Sprintf("s.p%d", i), time.Duration(1+i%7)*time.Second)
		slot := s.Next(now)
		due[slot.Add(s.Delay(slot))]++
	}
	if most := int(7*time.Second/MaxBeat) + 11; len(due) > most {
		t.Errorf("1000 polls are due at %d times within 7 s; want at most %d", len(due), most)
	}
}

// Names as people give them spread over the interval.
func TestScheduleSpread(t *testing.T) {
	const n, buckets = 1000, 10
	var phase, start [buckets]int
	for i := range n {
		s := NewSchedule(fmt.Sprintf("chain%d.balance.%c", i/26, 'a'+i%26), 10*time.Second)
		phase[int(s.Phase*buckets/s.Interval)]++
		start[int(s.Start()*buckets/MaxStart)]++
	}
	for i := range buckets {
		if phase[i] < n/buckets/2 || phase[i] > n/buckets*3/2 || start[i] != phase[i] {
			t.Errorf("%d of %d polls have their phase in tenth %d, %d their start", phase[i], n, i, start[i])
		}
	}
}
