package poller

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
)

// wallSet is by how much the tests have set the wall clock.
var wallSet atomic.Int64

func init() { clock = func() time.Time { return setWall(time.Now(), time.Duration(wallSet.Load())) } }

// setWall changes the wall clock reading of a time, in whole seconds, and not
// the monotonic one: package time has no way to do that.
func setWall(t time.Time, by time.Duration) time.Time {
	if by == 0 {
		return t
	}
	layout := (*struct {
		wall uint64 // monotonic flag, 33 bits of seconds, 30 of nanoseconds
		ext  int64
		loc  *time.Location
	})(unsafe.Pointer(&t))
	if layout.wall>>63 == 0 {
		return t.Add(by) // no monotonic reading
	}
	layout.wall += uint64(by/time.Second) << 30
	return t
}

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
		{"restored", anchor(at.Round(0), now), 0, time.Minute},
		{"restored, then set back", anchor(at.Round(0), now), -time.Hour, time.Minute},
		{"restored from a time to come", anchor(now.Add(time.Hour).Round(0), now), 0, 0},
	} {
		then := setWall(now, tt.set)
		if age := then.Round(0).Sub(told(tt.at, then)); age < tt.age || age > tt.age+time.Millisecond {
			t.Errorf("%s: age %v, want %v", tt.name, age, tt.age)
		}
	}
	if !told(time.Time{}, now).IsZero() || !anchor(time.Time{}, now).IsZero() {
		t.Error("never is a time")
	}
}

// The wall clock is set forward and back by an hour, and back by a little, while
// a poller runs: polling goes on at its pace, every change becomes one event,
// the breaker opens and recovers in its time, and no age is below zero or
// younger than the truth.
func TestClockIsSet(t *testing.T) {
	for _, by := range []time.Duration{time.Hour, -time.Hour, -3 * time.Second} {
		t.Run(by.String(), func(t *testing.T) {
			defer wallSet.Store(0)
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
			wallSet.Store(int64(by))
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
			if age := f.CheckedAt.Sub(f.AsOf); age < 0 || age > patience {
				t.Errorf("age %v: %+v", age, f)
			}
			w.fresh("open", func(f *event.Freshness) bool { return f.Breaker == event.Open })
			opened := time.Now()
			// Once more, while it is stale.
			wallSet.Add(int64(by))
			f = w.fresh("a record after that", func(f *event.Freshness) bool {
				return f.CheckedAt.Sub(f.AsOf) < 0 || f.CheckedAt.Sub(asOf).Abs() > time.Second
			})
			if age, least := f.CheckedAt.Sub(f.AsOf), time.Since(truth)-patience/10; age < 0 || age < least-2*time.Second {
				t.Errorf("age %v after at least %v: %+v", age, least, f)
			}
			u.set("")
			w.fresh("fresh again", func(f *event.Freshness) bool { return !f.Stale })
			if took := time.Since(opened); took > patience/2 {
				t.Errorf("recovered after %v", took)
			}
			change()
			if st := p.Status().Sources[0]; !st.Owned || st.Polls[0].AsOf.After(clock()) {
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

// A clock that was set back comes by the same slots again. What is stored there
// is no sign that the value of now is stored.
func TestSlotAgain(t *testing.T) {
	s := bustest.Start(t)
	nc, js, names := s.JetStream()
	m := newRecordMetrics()
	pub := &publisher{nc: nc, js: js, names: names, metrics: m, keepDeleted: time.Hour}
	ten := &tenure{fence: 5, start: time.Now()}
	ten.renewed(ten.start, time.Hour)
	var st stored
	put := func(value string, slot time.Time) error {
		d, err := digestOf([]byte(value), nil)
		if err != nil {
			t.Fatal(err)
		}
		st, err = pub.put(t.Context(), job{
			topic: "a.b", digest: d, slot: slot, known: st, tenure: ten,
			event: &event.Event{Topic: "a.b", Poll: "a.b", Data: []byte(value), AsOf: slot, ChangedAt: slot},
		})
		return err
	}
	slot := stamp(time.Now())
	if err := errors.Join(put("1", slot), put("2", slot.Add(time.Second))); err != nil {
		t.Fatal(err)
	}
	if err := put("1", slot); !errors.Is(err, errSlotTaken) || st.version != 2 {
		t.Errorf("the old value in its old slot: %v, version %d; want %v", err, st.version, errSlotTaken)
	}
	if err := put("1", slot.Add(time.Millisecond)); err != nil || st.version != 3 {
		t.Errorf("in a slot of its own: %v, version %d", err, st.version)
	}
}
