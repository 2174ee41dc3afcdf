package gateway

import (
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
)

// An event comes before the freshness record of its tick. Whoever looks in
// between must not be told less of the poll than of its value.
func TestSnapshotBetweenEventAndFreshness(t *testing.T) {
	r := newRig(t, nil)
	before := time.Now().UTC().Add(-5 * time.Second).Truncate(time.Millisecond)
	r.event("host.cpu", `1`)
	r.fresh(event.Freshness{Poll: "host.cpu", AsOf: before, Stale: true, Reason: event.Timeout, Detail: "late", ConsecutiveFailures: 1})
	time.Sleep(2 * time.Millisecond) // no two ticks have the same asOf
	r.event("host.cpu", `2`)
	eventually(t, "the gateway has read it", func() bool { return position(r.gw.server) == 3 })
	p := r.dial("/v1/ws?topics=host.>")
	e := p.until("the value", func(f wire.ServerFrame) bool { return f.Event != nil }).Event
	f := p.next().Fresh
	if e.Version != 2 || e.Stale || f == nil || f.Stale || f.Reason != "" || f.Detail != "" || f.ConsecutiveFailures != 0 || !f.AsOf.Equal(e.AsOf) {
		t.Errorf("have %+v and %+v, want the freshness to fit the value", e, f)
	}
	if f.CheckedAt.Before(f.AsOf) {
		t.Errorf("checked at %v, before it was asked for at %v", f.CheckedAt, f.AsOf)
	}
}

// The first record of a poller that took a source over says that nobody asked
// for a while. Its first answer ends that.
func TestFirstEventAfterTakeover(t *testing.T) {
	r := newRig(t, nil)
	r.event("host.cpu", `1`)
	r.fresh(event.Freshness{Poll: "host.cpu", AsOf: time.Now().UTC().Add(-time.Minute), Stale: true, Reason: event.PollerSilent})
	eventually(t, "the gateway has read it", func() bool { return position(r.gw.server) == 2 })
	p := r.dial("/v1/ws?topics=host.>")
	if e := p.until("the last value", func(f wire.ServerFrame) bool { return f.Event != nil }).Event; !e.Stale || e.Reason != event.PollerSilent {
		t.Errorf("have %+v, want it stale: poller_silent", e)
	}
	time.Sleep(2 * time.Millisecond)
	r.event("host.cpu", `2`)
	if e := p.until("a live value", func(f wire.ServerFrame) bool { return f.Event != nil }).Event; e.Stale || e.Reason != "" {
		t.Errorf("have %+v, want it fresh: the upstream has just answered", e)
	}
}

// A poller that falls silent between an event and its record takes nothing back
// of what the event has said.
func TestSilentAfterEvent(t *testing.T) {
	r := newRig(t, nil)
	p := r.dial("/v1/ws?topics=host.>")
	r.event("host.cpu", `1`)
	r.fresh(event.Freshness{Poll: "host.cpu", AsOf: time.Now().UTC().Add(-time.Second), IntervalMs: 100, MaxAgeMs: 300})
	r.event("host.cpu", `2`)
	e := p.until("the value", func(f wire.ServerFrame) bool { return f.Event != nil && f.Event.Version == 2 }).Event
	f := p.until("silence", func(f wire.ServerFrame) bool { return f.Fresh != nil && f.Fresh.Reason == event.PollerSilent }).Fresh
	if !f.AsOf.Equal(e.AsOf) {
		t.Errorf("the silent poll is as of %v, its value as of %v", f.AsOf, e.AsOf)
	}
}
