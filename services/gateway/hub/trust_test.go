package hub

import (
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
)

// Between an event and its record nothing older is told, whatever makes the
// gateway speak; and nothing at all of a poll that has no record yet.
func TestFreshnessBetweenEventAndRecord(t *testing.T) {
	at := time.Now().UTC()
	h := newHub(t)
	h.now = func() time.Time { return at }
	v := &h.view // nothing else runs
	v.link.down = false
	apply := func(seq uint64, e *event.Event, f *event.Freshness) {
		v.apply(&Record{Seq: seq, Event: e, Fresh: f}, at, at)
	}
	said := func() event.Freshness {
		v.judgeAll(at)
		return v.poll("host.cpu").published
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
	v.link.down = true
	if f := said(); !f.AsOf.Equal(at) || f.Reason != event.BusDisconnected {
		t.Errorf("without NATS: told %+v, want it as of the event", f)
	}
	v.link.down = false
	if f := said(); !f.AsOf.Equal(at) || f.Stale {
		t.Errorf("with NATS again: told %+v, want it fresh, as of the event", f)
	}
}

// After a silence the first event of one key says nothing of the other keys:
// their values are as stale as they were until the poll's record comes.
func TestOneKeyDoesNotVouchForTheOthers(t *testing.T) {
	h := newHub(t)
	h.Reset("E")
	h.Connected(true, "")
	now := time.Now()
	old := now.Add(-time.Minute)
	key := func(name string, asOf time.Time) *event.Event {
		return &event.Event{Topic: "a.k." + name, Poll: "a.k", Key: name, Version: 1, Data: []byte(`1`), AsOf: asOf, ChangedAt: asOf}
	}
	h.Snapshot([]Record{
		{Seq: 1, Stored: old, Event: key("x", old)},
		{Seq: 2, Stored: old, Fresh: &event.Freshness{Poll: "a.k", AsOf: old, CheckedAt: old, Breaker: event.Closed, MaxAgeMs: 1000}},
	}, 2)
	h.Append([]Record{{Seq: 3, Stored: now, Event: key("y", now)}}, 3, false)
	v := &h.view // nothing else runs
	f := v.polls["a.k"].fresh(time.Now(), false)
	if !f.Stale || f.Reason != event.PollerSilent {
		t.Errorf("%+v, want poller_silent", f)
	}
	for name, stale := range map[string]bool{"x": true, "y": false} {
		top := v.topics["a.k."+name]
		if tr := v.freshOf(top.event(), f, time.Now()); tr.Stale != stale {
			t.Errorf("%s: %+v, want stale %v", name, tr, stale)
		}
	}
}
