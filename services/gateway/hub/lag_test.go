package hub

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/trust"
)

// A lagRig is a hub whose clock the test moves, and a poller with its own.
type lagRig struct {
	*testing.T
	hub   *Hub
	at    time.Time     // on the gateway's clock
	skew  time.Duration // of the poller's clock
	fence uint64
	seq   uint64
}

const lagMaxAge = 15 * time.Second

func newLagRig(t *testing.T) *lagRig {
	r := &lagRig{T: t, hub: newHub(t), at: time.Now(), fence: 1}
	r.hub.now = func() time.Time { return r.at }
	r.hub.Reset("E")
	r.hub.Connected(true, "")
	return r
}

// made is the poller's time, a while ago.
func (r *lagRig) made(ago time.Duration) time.Time {
	return r.at.Add(r.skew - ago).UTC().Round(0).Truncate(time.Millisecond)
}

func (r *lagRig) comes(m Record) {
	r.seq++
	m.Seq, m.Stored = r.seq, r.at
	r.hub.Append([]Record{m}, r.seq, false)
}

// record comes, made a while ago.
func (r *lagRig) record(ago time.Duration) {
	r.comes(Record{Fresh: &event.Freshness{Poll: "a.k", AsOf: r.made(ago), CheckedAt: r.made(ago), Breaker: event.Closed, MaxAgeMs: lagMaxAge.Milliseconds(), Fence: r.fence}})
}

// key is an event of a key that comes, made a while ago.
func (r *lagRig) key(ago time.Duration) {
	r.comes(Record{Event: &event.Event{Topic: "a.k.x", Poll: "a.k", Key: "x", Version: r.seq, Data: []byte(`1`), AsOf: r.made(ago), ChangedAt: r.made(ago), Fence: r.fence}})
}

func (r *lagRig) wantStale(what string, want bool) {
	r.Helper()
	v := &r.hub.view // nothing else runs
	f := v.polls["a.k"].fresh(r.at, false)
	if f.Stale != want || want && f.Reason != event.PollerSilent {
		r.Errorf("%s: the poll is %+v, want stale %v", what, f, want)
	}
	if top := v.topics["a.k.x"]; top != nil {
		if f := v.freshOf(top.event(), f, r.at); f.Stale != want {
			r.Errorf("%s: the key is %+v, want stale %v", what, f, want)
		}
	}
}

func (r *lagRig) pass(d time.Duration) { r.at = r.at.Add(d) }

// A gateway that has just started believes no more of what was held back.
func TestHeldBackAtStart(t *testing.T) {
	r := newLagRig(t)
	r.record(30 * time.Second)
	r.wantStale("a record of 30 s ago", true)
	r.key(29 * time.Second)
	r.wantStale("a key's event of 29 s ago", true)
	r.record(28 * time.Second) // at once
	r.wantStale("a record of 28 s ago", true)
	r.pass(time.Second)
	r.record(0)
	r.key(0)
	r.wantStale("a record of now", false)
}

// What was held back on its way, by a NATS server that stood still for half a
// minute, say, is no news of now.
func TestHeldBack(t *testing.T) {
	r := newLagRig(t)
	r.record(5 * time.Millisecond)
	r.wantStale("a record that came at once", false)
	r.pass(40 * time.Second)
	r.wantStale("nothing for 40 s", true)
	r.key(30 * time.Second)
	r.wantStale("a key's event of 30 s ago", true)
	r.record(29 * time.Second)
	r.wantStale("a record of 29 s ago", true)
	r.key(10 * time.Millisecond)
	r.record(0)
	r.wantStale("a record of now", false)
	r.pass(10 * time.Second)
	r.record(8 * time.Second)
	r.wantStale("a record of 8 s ago", false)
	r.pass(5 * time.Second)
	r.wantStale("the same, 5 s later", false)
	r.pass(3 * time.Second)
	r.wantStale("and 3 s later", true)
}

// A poller's clock that is ahead is said, in a metric and once in the log.
func TestClockAhead(t *testing.T) {
	r := newLagRig(t)
	var log strings.Builder
	var ahead gauge
	r.hub.Metrics.ClockAhead = &ahead
	r.hub.Log = slog.New(slog.NewTextHandler(&log, nil))
	r.skew = 40 * time.Second
	for range 3 {
		r.record(10 * time.Millisecond)
		r.hub.Sweep(r.at)
		r.pass(5 * time.Second)
	}
	if have := ahead.Load(); have < 39.9 || have > 40 {
		t.Errorf("pollcast_gateway_clock_ahead_seconds is %v, want 39.99", have)
	}
	if have := strings.Count(log.String(), "clock is ahead"); have != 1 || !strings.Contains(log.String(), "poll=a.k ahead=39.9") {
		t.Errorf("said %d times in %s, want once", have, log.String())
	}
}

// Clocks that differ make nobody stale for longer than it takes to see it: not
// when one of them is set, nor when another poller takes over, nor by drifting.
func TestClocksDiffer(t *testing.T) {
	for _, skew := range []time.Duration{-40 * time.Second, 40 * time.Second, time.Hour} {
		r := newLagRig(t)
		r.skew = skew
		r.record(3 * time.Millisecond)
		r.wantStale("the first record", skew < 0)
		for range 10 {
			r.pass(5 * time.Second)
			r.record(4 * time.Millisecond)
			r.wantStale("from the second record on", false)
		}
		for _, step := range []time.Duration{-time.Hour, time.Hour, -8 * time.Second} {
			r.skew += step
			for range 3 {
				r.pass(5 * time.Second)
				r.record(3 * time.Millisecond)
				r.wantStale("the clock was set by "+step.String(), false)
			}
		}
		r.skew, r.fence = -skew, 2
		for range 2 {
			r.pass(5 * time.Second)
			r.record(3 * time.Millisecond)
		}
		r.wantStale("another poller", false)
		for range 1000 {
			r.skew -= 5 * time.Millisecond // 1 s in 1,000 s
			r.pass(5 * time.Second)
			r.record(3 * time.Millisecond)
			r.wantStale("drift", false)
		}
		r.pass(lagMaxAge + time.Second)
		r.wantStale("silence", true)
	}
}

// A poller that takes over again first says that nobody asked for a while, and
// then which value it had before: that makes nothing fresh.
func TestOldValueAfterTakeover(t *testing.T) {
	r := newLagRig(t)
	value := func(version uint64, ago time.Duration) Record {
		return Record{Event: &event.Event{Topic: "a.k", Poll: "a.k", Version: version, Data: []byte(`1`), AsOf: r.made(ago), ChangedAt: r.made(ago), Fence: r.fence}}
	}
	record := func(ago time.Duration, stale bool) Record {
		f := &event.Freshness{Poll: "a.k", AsOf: r.made(ago), CheckedAt: r.made(0), Breaker: event.Closed, MaxAgeMs: lagMaxAge.Milliseconds(), Fence: r.fence, Stale: stale}
		if stale {
			f.Reason = event.PollerSilent
		}
		return Record{Fresh: f}
	}
	r.comes(value(1, 0))
	r.comes(record(0, false))
	r.wantStale("at first", false)
	r.pass(time.Minute)
	r.fence = 2
	r.comes(record(50*time.Second, true))
	r.comes(value(2, 49*time.Second))
	r.wantStale("the value it had", true)
	frame := r.hub.view.liveFrame(r.hub.view.topics["a.k"].event(), r.at)
	if !frame.Event.Stale || frame.Event.Reason != event.PollerSilent {
		t.Errorf("%+v, want stale: poller_silent", frame.Event)
	}
	if f := r.hub.view.polls["a.k"].fresh(r.at, false); !f.AsOf.Equal(r.made(49 * time.Second)) {
		t.Errorf("as of %v, want %v", f.AsOf, r.made(49*time.Second))
	}
	// Nor does the first word of the next owner take back what the last confirmed.
	r.fence = 3
	r.comes(record(52*time.Second, true))
	if f := r.hub.view.polls["a.k"].fresh(r.at, false); !f.AsOf.Equal(r.made(49 * time.Second)) {
		t.Errorf("after a takeover: as of %v, want %v", f.AsOf, r.made(49*time.Second))
	}
	// Nor does a record by which a poller begins anew after an event of which it
	// does not know whether it was stored; but one after its clock was set back.
	r.comes(value(2, 0))
	r.comes(record(2*time.Second, false))
	if f := r.hub.view.polls["a.k"].fresh(r.at, false); !f.AsOf.Equal(r.made(0)) || f.Stale {
		t.Errorf("%+v, want it fresh as of now, %v", f, r.made(0))
	}
	r.skew -= time.Second
	r.comes(record(time.Second, false))
	if f := r.hub.view.polls["a.k"].fresh(r.at, false); !f.AsOf.Equal(r.made(time.Second)) {
		t.Errorf("after the clock was set back: as of %v, want %v", f.AsOf, r.made(time.Second))
	}
	r.skew += time.Second
	r.pass(time.Minute)
	old := r.hub.view.topics["a.k"].event()
	r.comes(value(3, 0))
	r.wantStale("an answer", false)
	r.comes(record(0, false))
	// Whoever is behind may be sent the one before: it is as old as it was.
	if f := r.hub.view.liveFrame(old, r.at); !f.Event.Stale {
		t.Errorf("%+v, want stale", f.Event)
	}
}

// The first that a gateway hears of a poll may be an event that was held back by
// a NATS cluster without a leader, with its freshness record behind it: it is not
// of now because it comes now.
func TestHeldBackBeforeAnyRecord(t *testing.T) {
	came := time.Now()
	var l trust.Lag
	if have, want := l.Here(came.Add(-10*time.Second), came), came.Add(-9*time.Second); have.After(want) {
		t.Errorf("what was made 10 s ago is taken for %v old, want %v", came.Sub(have), came.Sub(want))
	}
	if have := l.Here(came.Add(-trust.ClocksAgree/2), came); !have.Equal(came) {
		t.Errorf("what was made %v ago is taken for %v old: clocks differ by as much", trust.ClocksAgree/2, came.Sub(have))
	}
}
