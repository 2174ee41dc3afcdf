package trust

import (
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
)

var start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func TestJudge(t *testing.T) {
	good := event.Freshness{Poll: "a.b", Breaker: event.Closed, MaxAgeMs: 15000}
	bad := good
	bad.Stale, bad.Reason, bad.Detail = true, event.Timeout, "no answer"
	until := Until(start, good.MaxAge(), time.Second)
	for _, c := range []struct {
		name   string
		record event.Freshness
		cut    event.Reason
		until  time.Time
		now    time.Duration
		stale  bool
		reason event.Reason
		detail string
	}{
		{"a good record", good, "", until, 0, false, "", ""},
		{"a bad record", bad, "", until, 0, true, event.Timeout, "no answer"},
		{"the last moment of a record", good, "", until, 16 * time.Second, false, "", ""},
		{"silence", good, "", until, 16*time.Second + 1, true, event.PollerSilent, ""},
		{"silence after a bad record", bad, "", until, time.Hour, true, event.PollerSilent, ""},
		{"a record without an end", good, "", time.Time{}, time.Hour, false, "", ""},
		{"the bus is lost", good, event.BusDisconnected, until, 0, true, event.BusDisconnected, ""},
		{"the bus is lost during silence", bad, event.BusDisconnected, until, time.Hour, true, event.BusDisconnected, ""},
	} {
		f, judged := Judge(c.record, c.cut, c.until, start.Add(c.now))
		if f.Stale != c.stale || f.Reason != c.reason || f.Detail != c.detail {
			t.Errorf("%s: have %+v, want stale %v, reason %q, detail %q", c.name, f, c.stale, c.reason, c.detail)
		}
		if want := f != c.record; judged != want {
			t.Errorf("%s: judged is %v, want %v", c.name, judged, want)
		}
		if f.Poll != "a.b" || f.MaxAgeMs != 15000 {
			t.Errorf("%s: %+v lost what it is about", c.name, f)
		}
	}
}

func TestUntilBoundsMaxAge(t *testing.T) {
	if have, want := Until(start, 1<<62, time.Second), start.Add(AgeLimit+time.Second); !have.Equal(want) {
		t.Errorf("have %v, want %v", have, want)
	}
}

func TestOffsetKeepsTheLeastSample(t *testing.T) {
	var o Offset
	if o.Known() {
		t.Error("an offset without a sample is known")
	}
	o.Observe(-time.Hour+3*time.Millisecond, start, 1000)
	o.Observe(-time.Hour+time.Minute, start.Add(time.Second), 1000) // held up, and 1 ms of drift
	if have, want := o.Delay(-time.Hour+time.Minute), time.Minute-4*time.Millisecond; have != want {
		t.Errorf("have a delay of %v, want %v", have, want)
	}
	o.Observe(-time.Hour, start.Add(2*time.Second), 1000)
	if have := o.Delay(-time.Hour - time.Second); have != 0 {
		t.Errorf("have a delay of %v for the fastest, want 0", have)
	}
}

// lagRig is a poller and a reader whose clocks the test sets.
type lagRig struct {
	Lag
	at   time.Time     // by the reader's clock
	skew time.Duration // of the poller's clock
}

// record takes in a record that was made a while ago, and returns its estimated age.
func (r *lagRig) record(ago time.Duration, fence uint64) time.Duration {
	made := r.at.Add(r.skew - ago)
	r.Observe(made, fence, r.at)
	return r.at.Sub(r.Here(made, r.at))
}

func TestLagShowsWhatWasHeldUp(t *testing.T) {
	r := lagRig{at: start}
	if have := r.record(30*time.Second, 1); have != 29*time.Second {
		t.Errorf("the first record is taken for %v old, want 29s: clocks may differ by %v", have, ClocksAgree)
	}
	if have := r.record(29*time.Second, 1); have < 27*time.Second {
		t.Errorf("a record that arrived together with it is taken for %v old, want 28s", have)
	}
	r.at = r.at.Add(10 * time.Second)
	if have := r.record(0, 1); have != 0 {
		t.Errorf("a record of now is taken for %v old", have)
	}
	r.at = r.at.Add(40 * time.Second)
	if have := r.record(20*time.Second, 1); have < 19*time.Second || have > 20*time.Second {
		t.Errorf("a record of 20s ago is taken for %v old", have)
	}
}

func TestLagFollowsClocks(t *testing.T) {
	for _, skew := range []time.Duration{0, time.Hour, -time.Hour} {
		r := lagRig{at: start, skew: skew}
		settle := func(what string, fence uint64) {
			t.Helper()
			for i := range 3 {
				r.at = r.at.Add(5 * time.Second)
				if have := r.record(3*time.Millisecond, fence); have > time.Second && i > 0 {
					t.Errorf("skew %v, %s: record %d is taken for %v old", skew, what, i, have)
				}
			}
		}
		settle("at first", 1)
		for _, step := range []time.Duration{-time.Minute, time.Minute} {
			r.skew += step
			settle("the poller's clock was set by "+step.String(), 1)
		}
		r.skew = -skew
		settle("another poller took over", 2)
		if have, want := r.Ahead(), max(0, -skew-3*time.Millisecond); (have - want).Abs() > time.Millisecond {
			t.Errorf("skew %v: have the clock %v ahead, want %v", skew, have, want)
		}
	}
}

// The first news of a poll may be an event that was held up, with its record
// behind it: it is not of now because it arrives now.
func TestLagBeforeAnyRecord(t *testing.T) {
	var l Lag
	if have, want := l.Here(start.Add(-10*time.Second), start), start.Add(-9*time.Second); !have.Equal(want) {
		t.Errorf("what was made 10 s ago is taken for %v old, want %v", start.Sub(have), start.Sub(want))
	}
	if have := l.Here(start.Add(-ClocksAgree/2), start); !have.Equal(start) {
		t.Errorf("what was made %v ago is taken for %v old: clocks may differ by as much", ClocksAgree/2, start.Sub(have))
	}
	if have := l.Here(time.Time{}, start); !have.Equal(start) {
		t.Errorf("what has no time is taken for made at %v, want its arrival", have)
	}
	if l.Ahead() != 0 {
		t.Error("a clock of which nothing is known is ahead")
	}
}
