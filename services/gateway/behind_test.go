package gateway

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/hub"
)

// A gateway that has lost NATS knows less of the stream than a client that comes
// from another one: it must not show it older values.
func TestResumeAtAGatewayThatHasLostNATS(t *testing.T) {
	r := newRig(t, nil)
	r.event("a.x", "1")
	p := r.dial("/v1/ws?topics=a.>")
	epoch := p.next().Subscribed.Epoch
	r.nats.Stop()
	eventually(t, "the gateway knows", func() bool { return r.gw.Ready() != nil })
	late := dial(t, r.gw.Addr(), "/v1/ws")
	late.send(fmt.Sprintf(`{"id":1,"subscribe":{"topics":["a.>"],"since":{"seq":100,"epoch":"%s"}}}`, epoch))
	f := late.until("an answer", func(f wire.ServerFrame) bool { return f.ID == 1 })
	if f.Error == nil || f.Error.Code != wire.CodeUnavailable || !f.Error.Retryable {
		t.Errorf("have %+v, want an error that says to try again", f)
	}
	// Who has seen no more than the gateway is served.
	late.send(fmt.Sprintf(`{"id":2,"subscribe":{"topics":["a.>"],"since":{"seq":1,"epoch":"%s"}}}`, epoch))
	f = late.until("an answer", func(f wire.ServerFrame) bool { return f.ID == 2 })
	if f.Subscribed == nil || !f.Subscribed.Resumed {
		t.Errorf("have %+v, want resumed", f)
	}
}

// A gateway whose NATS server is cut off from its cluster hears nothing, and may
// take that for all there is: it must not show older values to a client that
// comes from another one. While records come, the stream itself holds less than
// the client has seen: it was restored.
func TestResumeAtAGatewayThatIsBehind(t *testing.T) {
	for _, lives := range []bool{false, true} {
		t.Run(fmt.Sprintf("records come %v", lives), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			r.event("a.x", "1")
			p := r.dial("/v1/ws?topics=a.>")
			epoch := p.next().Subscribed.Epoch
			r.event("a.x", "2")
			p.until("it came", func(f wire.ServerFrame) bool { return f.Event != nil && f.Event.Version == 2 })
			late := r.dial("/v1/ws")
			asked := time.Now()
			late.send(fmt.Sprintf(`{"id":1,"subscribe":{"topics":["a.>"],"since":{"seq":100,"epoch":"%s"}}}`, epoch))
			if lives {
				time.Sleep(behindWait / 5) // the client waits by now
				r.event("a.x", "3")
			}
			f := late.until("an answer", func(f wire.ServerFrame) bool { return f.ID == 1 })
			switch {
			case lives && (f.Subscribed == nil || f.Subscribed.Reason != wire.NotResumedEpoch):
				t.Errorf("have %+v, want not resumed: epoch", f)
			case !lives && (f.Error == nil || f.Error.Code != wire.CodeUnavailable || !f.Error.Retryable):
				t.Errorf("have %+v, want an error that says to try again", f)
			}
			if waited := time.Since(asked); waited < behindWait {
				t.Errorf("answered after %v, want %v: it may yet come", waited, behindWait)
			}
		})
	}
}

// A slowPast takes its time, in which something happens.
type slowPast struct {
	replayer
	meanwhile func()
}

func (p slowPast) replay(ctx context.Context, patterns []string, from, to uint64, most int) (hub.Stretch, error) {
	p.meanwhile()
	return p.replayer.replay(ctx, patterns, from, to, most)
}

// What comes while the stream is read back belongs to the replay: everything in
// it, and the freshness that it ends with, is of one moment, from which on the
// live frames follow.
func TestFreshnessWhileTheStreamIsReadBack(t *testing.T) {
	r := newRig(t, nil)
	at := time.Now().UTC().Truncate(time.Second)
	fresh := func(i int) {
		r.fresh(event.Freshness{Poll: "a.x", AsOf: at.Add(time.Duration(i) * time.Second), Breaker: event.Closed, IntervalMs: 1000, MaxAgeMs: 60_000})
	}
	for i := range 3 {
		r.event("a.x", fmt.Sprint(i))
	}
	fresh(1)
	gw, _ := r.start(nil) // has none of it in its history
	s := gw.server
	s.readbacks.source = slowPast{s.readbacks.source, func() {
		r.event("a.x", "3")
		for i := 2; i <= 5; i++ {
			fresh(i)
		}
		eventually(t, "the gateway heard of it", func() bool {
			return position(s) >= 9
		})
	}}
	epoch := epochOf(s)
	p, sub := resume(t, gw.Addr(), "a.>", 1, epoch)
	if !sub.Resumed || sub.Seq != 9 {
		t.Fatalf("%+v, want resumed at 9", sub)
	}
	for v := uint64(2); v <= 4; v++ {
		if e := p.event(); e.Version != v || e.Phase != wire.Replay {
			t.Fatalf("%+v, want version %d, replay", e, v)
		}
	}
	fresh(6)
	for i := 5; i <= 6; i++ {
		f := p.next().Fresh
		if want := at.Add(time.Duration(i) * time.Second); f == nil || !f.AsOf.Equal(want) {
			t.Fatalf("freshness %+v, want as of %v", f, want)
		}
	}
}

// While the stream is read back it loses what was asked for: that is said.
func TestTrimmedWhileTheStreamIsReadBack(t *testing.T) {
	r := newRig(t, nil)
	r.event("b.x", "1") // the stream's first message stays
	for i := range 50 { // of the 64 that the stream keeps of a topic
		r.event("a.x", fmt.Sprint(i))
	}
	gw, _ := r.start(nil)
	s := gw.server
	s.readbacks.source = slowPast{s.readbacks.source, func() {
		for i := range 40 {
			r.event("a.x", fmt.Sprint(i))
		}
		eventually(t, "the gateway heard of it", func() bool {
			return position(s) >= 91
		})
	}}
	epoch := epochOf(s)
	if _, sub := resume(t, gw.Addr(), "a.>", 1, epoch); sub.Resumed || sub.Reason != wire.NotResumedTrimmed {
		t.Errorf("%+v, want not resumed: trimmed", sub)
	}
}

// A deletion takes what was before it along, while the stream is read back: the
// client is told of the deletion, and of nothing after what it was not told of.
func TestDeletedWhileTheStreamIsReadBack(t *testing.T) {
	r := newRig(t, nil)
	r.event("b.x", "1")
	for i := range 3 {
		r.event("a.x", fmt.Sprint(i))
	}
	gw, _ := r.start(nil)
	r.event("a.x", "4") // in the history
	s := gw.server
	s.readbacks.source = slowPast{s.readbacks.source, func() {
		r.versions["a.x"]++
		m := r.names.EventMsg(&event.Event{Topic: "a.x", Poll: "a.x", Deleted: true, Version: r.versions["a.x"], ChangedAt: time.Now(), AsOf: time.Now()}, time.Now())
		m.Header.Set("Nats-Rollup", "sub")
		if _, err := r.js.PublishMsg(t.Context(), m); err != nil {
			t.Error(err)
		}
		eventually(t, "the gateway heard of it", func() bool {
			return position(s) >= 6
		})
	}}
	var epoch string
	eventually(t, "the gateway has read it all", func() bool {
		epoch = epochOf(s)
		return position(s) >= 5
	})
	p, sub := resume(t, gw.Addr(), "a.>", 2, epoch)
	if e := p.event(); !sub.Resumed || !e.Deleted || e.Version != 5 {
		t.Errorf("%+v, and then %+v; want resumed, and the deletion", sub, e)
	}
}

// What comes to a paced feed while the stream is read back in vain is in the
// snapshot, and not sent once more.
func TestPacedSnapshotAfterReadingBack(t *testing.T) {
	r := newRig(t, nil)
	r.event("a.x", "1")
	r.event("a.x", "2")
	gw, _ := r.start(nil)
	s := gw.server
	other := dial(t, gw.Addr(), "/v1/ws")
	other.send(`{"id":1,"subscribe":{"topics":["a.>"],"maxHz":0.5}}`)
	other.event()
	r.event("a.x", "3") // the tick that makes the next one wait
	other.event()
	time.Sleep(2 * 100 * time.Millisecond) // that of the other one is shared no more
	s.readbacks.source = slowPast{failing{}, func() {
		r.event("a.x", "4")
		eventually(t, "the gateway heard of it", func() bool {
			return position(s) >= 4
		})
	}}
	p := dial(t, gw.Addr(), "/v1/ws")
	epoch := epochOf(s)
	p.send(fmt.Sprintf(`{"id":1,"subscribe":{"topics":["a.>"],"maxHz":0.5,"since":{"seq":1,"epoch":"%s"}}}`, epoch))
	if e := p.event(); e.Version != 4 || e.Phase != wire.Snapshot {
		t.Fatalf("%+v, want the snapshot", e)
	}
	r.event("a.y", "1")
	if e := p.event(); e.Topic != "a.y" {
		t.Errorf("version %d of %s came again after the snapshot", e.Version, e.Topic)
	}
}

// failing is a stream that cannot be read.
type failing struct{}

func (failing) replay(context.Context, []string, uint64, uint64, int) (hub.Stretch, error) {
	return hub.Stretch{}, context.DeadlineExceeded
}

// A client that says only what it has seen (notOlderThan) is not shown older
// values either, by a gateway that hears nothing; several frames of it wait
// together. Of another epoch it means nothing.
func TestNotOlderThan(t *testing.T) {
	for _, lives := range []bool{false, true} {
		t.Run(fmt.Sprintf("records come %v", lives), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			r.event("a.x", "1")
			p := r.dial("/v1/ws?topics=a.>")
			epoch := p.next().Subscribed.Epoch
			r.event("a.x", "2")
			p.until("it came", func(f wire.ServerFrame) bool { return f.Event != nil && f.Event.Version == 2 })
			late := r.dial("/v1/ws")
			asked := time.Now()
			const frames = 3
			for id := range frames {
				late.send(fmt.Sprintf(`{"id":%d,"subscribe":{"topics":["a.x","b.%d"],"delivery":"latest","notOlderThan":{"seq":100,"epoch":"%s"}}}`, id+1, id, epoch))
			}
			if lives {
				time.Sleep(behindWait / 5)
				r.event("a.x", "3")
			}
			for id := range frames {
				f := late.until("an answer", func(f wire.ServerFrame) bool { return f.ID == uint64(id+1) })
				switch {
				case lives && (f.Subscribed == nil || f.Subscribed.Seq != 3):
					t.Errorf("have %+v, want it served: the stream was set back", f)
				case !lives && (f.Error == nil || f.Error.Code != wire.CodeUnavailable || !f.Error.Retryable):
					t.Errorf("have %+v, want an error that says to try again", f)
				}
			}
			if waited := time.Since(asked); waited < behindWait || waited > 2*behindWait {
				t.Errorf("answered after %v, want %v for all of them", waited, behindWait)
			}
			if lives {
				return
			}
			late.send(`{"id":9,"subscribe":{"topics":["a.x"],"notOlderThan":{"seq":100,"epoch":"other"}}}`)
			if f := late.until("an answer", func(f wire.ServerFrame) bool { return f.ID == 9 }); f.Subscribed == nil {
				t.Errorf("have %+v, want it served", f)
			}
		})
	}
}

// A shortPast ends where a server's copy of the stream does that was cut off.
type shortPast struct {
	replayer
	end uint64
}

func (p shortPast) replay(ctx context.Context, patterns []string, from, to uint64, most int) (hub.Stretch, error) {
	out, err := p.replayer.replay(ctx, patterns, from, min(to, p.end), most)
	out.To = to
	return out, err
}

// What NATS gives when the stream is read back lacks the newest, as does a
// server's copy that led the stream once: that is not called complete.
func TestResumeFromAStreamThatIsCutShort(t *testing.T) {
	r := newRig(t, nil)
	for i := range 5 {
		r.event("a.x", fmt.Sprint(i))
	}
	gw, _ := r.start(nil) // has none of it in its history
	s := gw.server
	s.readbacks.source = shortPast{s.readbacks.source, 3}
	epoch := epochOf(s)
	p, sub := resume(t, gw.Addr(), "a.>", 1, epoch)
	if sub.Resumed || sub.Reason != wire.NotResumedTooFar {
		t.Errorf("%+v, want not resumed: too far", sub)
	}
	if e := p.event(); e.Version != 5 || e.Phase != wire.Snapshot {
		t.Errorf("%+v, want the snapshot", e)
	}
}
