package gateway

import (
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/prometheus/client_golang/prometheus"
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
	eventually(t, "the gateway has read it", func() bool { return r.gw.server.hub.list().Seq == 3 })
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
	eventually(t, "the gateway has read it", func() bool { return r.gw.server.hub.list().Seq == 2 })
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

// Between an event and its record nothing older is told, whatever makes the
// gateway speak; and nothing at all of a poll that has no record yet.
func TestFreshnessBetweenEventAndRecord(t *testing.T) {
	at := time.Now().UTC()
	h := newHub(nil, 10, 10, newMetrics(prometheus.NewRegistry()), quiet())
	h.now = func() time.Time { return at }
	h.busDown = false
	apply := func(seq uint64, e *event.Event, f *event.Freshness) {
		h.apply(&bus.Message{Seq: seq, Event: e, Fresh: f}, at, at)
	}
	said := func() event.Freshness {
		h.retell(at)
		return h.poll("host.cpu").told
	}
	value := func(version uint64, asOf time.Time) *event.Event {
		return &event.Event{Topic: "host.cpu", Poll: "host.cpu", Version: version, Data: []byte("1"), AsOf: asOf, ChangedAt: asOf}
	}
	apply(1, value(1, at), nil)
	if f := said(); f.Poll != "" {
		t.Errorf("told %+v of a poll without a record", f)
	}
	first := at
	apply(2, nil, &event.Freshness{Poll: "host.cpu", AsOf: first, CheckedAt: at, MaxAgeMs: 60_000, Breaker: event.Closed})
	at = at.Add(time.Second)
	apply(3, value(2, at), nil)
	h.busDown = true
	if f := said(); !f.AsOf.Equal(at) || f.Reason != event.BusDisconnected {
		t.Errorf("without NATS: told %+v, want it as of the event", f)
	}
	h.busDown = false
	if f := said(); !f.AsOf.Equal(at) || f.Stale {
		t.Errorf("with NATS again: told %+v, want it fresh, as of the event", f)
	}
}

// After a silence the first event of one key says nothing of the other keys:
// their values are as stale as they were until the poll's record comes.
func TestOneKeyDoesNotVouchForTheOthers(t *testing.T) {
	h := newHub(nil, 10, 10, newMetrics(prometheus.NewRegistry()), quiet())
	in := intake{h}
	in.Reset("E")
	in.Connected(true, "")
	now := time.Now()
	old := now.Add(-time.Minute)
	key := func(name string, asOf time.Time) *event.Event {
		return &event.Event{Topic: "a.k." + name, Poll: "a.k", Key: name, Version: 1, Data: []byte(`1`), AsOf: asOf, ChangedAt: asOf}
	}
	in.Snapshot([]bus.Message{
		{Seq: 1, Stored: old, Event: key("x", old)},
		{Seq: 2, Stored: old, Fresh: &event.Freshness{Poll: "a.k", AsOf: old, CheckedAt: old, Breaker: event.Closed, MaxAgeMs: 1000}},
	}, 2)
	in.Append([]bus.Message{{Seq: 3, Stored: now, Event: key("y", now)}}, 3, false)
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.polls["a.k"].fresh(time.Now(), false)
	if !f.Stale || f.Reason != event.PollerSilent {
		t.Errorf("%+v, want poller_silent", f)
	}
	for name, stale := range map[string]bool{"x": true, "y": false} {
		top := h.topics["a.k."+name]
		if tr := h.trust(past{top.last, top.seq}, f, time.Now()); tr.Stale != stale {
			t.Errorf("%s: %+v, want stale %v", name, tr, stale)
		}
	}
}
