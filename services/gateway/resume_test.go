package gateway

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/wire"
)

// resume subscribes on a new connection from a position, and returns the answer.
func resume(t *testing.T, addr, topics string, seq uint64, epoch string) (*peer, *wire.Subscribed) {
	t.Helper()
	p := dial(t, addr, "/v1/ws")
	p.send(fmt.Sprintf(`{"id":1,"subscribe":{"topics":["%s"],"since":{"seq":%d,"epoch":"%s"}}}`, topics, seq, epoch))
	f := p.next()
	if f.Subscribed == nil {
		t.Fatalf("have %+v, want subscribed", f)
	}
	return p, f.Subscribed
}

func (p *peer) event() *wire.Event {
	p.t.Helper()
	return p.until("an event", func(f wire.ServerFrame) bool { return f.Event != nil }).Event
}

func TestResume(t *testing.T) {
	r := newRig(t, nil)
	first := r.dial("/v1/ws?topics=a.>")
	sub := first.next().Subscribed
	for i := range 5 {
		r.event("a.x", fmt.Sprint(i))
		r.event("b.x", fmt.Sprint(i))
	}
	var seen *wire.Event
	for range 5 {
		seen = first.event()
	}
	if seen.Version != 5 {
		t.Fatalf("version %d, want 5", seen.Version)
	}
	late, _ := r.start(nil) // has none of it in its history

	for name, gw := range map[string]*Gateway{"from the history": r.gw, "from the stream": late} {
		p, s := resume(t, gw.Addr(), "a.>", 3, sub.Epoch) // a.x is at 1, 3, 5, 7, 9
		if !s.Resumed || s.Reason != "" || s.Seq != 10 {
			t.Fatalf("%s: %+v, want resumed at 10", name, s)
		}
		for v := uint64(3); v <= 5; v++ {
			if e := p.event(); e.Version != v || e.Phase != wire.Replay || e.Topic != "a.x" {
				t.Fatalf("%s: %+v, want version %d, replay", name, e, v)
			}
		}
	}
	r.event("a.x", "9")
	for _, gw := range []*Gateway{r.gw, late} {
		p, s := resume(t, gw.Addr(), "a.>", 10, sub.Epoch)
		if e := p.event(); !s.Resumed || e.Version != 6 {
			t.Fatalf("resumed %v with %+v, want version 6", s.Resumed, e)
		}
	}
	p, s := resume(t, r.gw.Addr(), "a.*", 3, "another")
	if s.Resumed || s.Reason != wire.NotResumedEpoch {
		t.Fatalf("%+v, want not resumed: epoch", s)
	}
	if e := p.event(); e.Phase != wire.Snapshot || e.Version != 6 {
		t.Fatalf("%+v, want the snapshot", e)
	}
	// More events than the stream keeps of a topic.
	for i := range 100 {
		r.event("a.x", fmt.Sprint(i))
	}
	last, _ := r.start(nil)
	p, s = resume(t, last.Addr(), "a.>", 3, sub.Epoch)
	if s.Resumed || s.Reason != wire.NotResumedTrimmed {
		t.Fatalf("%+v, want not resumed: trimmed", s)
	}
	if e := p.event(); e.Phase != wire.Snapshot || e.Version != 106 {
		t.Fatalf("%+v, want the snapshot of version 106", e)
	}
}

// Who was away for longer than the stream keeps deletions cannot be told what
// went meanwhile, so it gets a snapshot.
func TestResumeBeyondDeletions(t *testing.T) {
	r := newRig(t, nil)
	r.event("a.x", "1")
	r.event("a.x", "2")
	past := r.gw.server.readbacks.source.(streamPast)
	for _, tt := range []struct {
		later time.Duration
		want  bool
	}{{0, true}, {bus.KeepDeletions - deletionMargin - time.Minute, true}, {bus.KeepDeletions, false}} {
		past.now = func() time.Time { return time.Now().Add(tt.later) }
		got, err := past.replay(t.Context(), []string{"a.>"}, 1, 2, 1<<20)
		if complete := got.Lacks(1, nil) == ""; err != nil || complete != tt.want || complete && len(got.Events) != 1 {
			t.Errorf("%v later: %d events, complete %v, %v; want complete %v", tt.later, len(got.Events), complete, err, tt.want)
		}
	}
}

// Clients that come and go at random, on two gateways, see every event of every
// topic once and in order, while events flow.
func TestResumeUnderLoad(t *testing.T) {
	r := newRig(t, nil)
	other, _ := r.start(nil)
	addrs := []string{r.gw.Addr(), other.Addr()}
	topics := []string{"a.x", "a.y", "b.x"}
	const rounds = 400
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	var clients sync.WaitGroup
	for i := range 8 {
		rng := rand.New(rand.NewPCG(1, uint64(i)))
		clients.Go(func() {
			pattern := []string{"a.>", ">", "a.x"}[i%3]
			versions := map[string]uint64{}
			var since wire.Since
			for ctx.Err() == nil {
				ws, _, err := websocket.DefaultDialer.DialContext(ctx, "ws://"+addrs[rng.IntN(2)]+"/v1/ws", nil)
				if err != nil {
					t.Errorf("dial: %v", err)
					return
				}
				p := &peer{t, ws}
				if since.Epoch == "" {
					p.send(fmt.Sprintf(`{"subscribe":{"topics":["%s"]}}`, pattern))
				} else {
					p.send(fmt.Sprintf(`{"subscribe":{"topics":["%s"],"since":{"seq":%d,"epoch":"%s"}}}`, pattern, since.Seq, since.Epoch))
				}
				done := false
				for n := rng.IntN(60); n >= 0 && !done; {
					f := p.next()
					switch {
					case f.Subscribed != nil:
						if since.Epoch != "" && !f.Subscribed.Resumed {
							t.Errorf("client %d: not resumed: %s", i, f.Subscribed.Reason)
							done = true
						}
						since.Epoch = f.Subscribed.Epoch
						if since.Seq == 0 {
							since.Seq = f.Subscribed.Seq
						}
					case f.Event != nil:
						e := f.Event
						n--
						if have, ok := versions[e.Topic]; ok && e.Version != have+1 || !ok && e.Phase == wire.Replay && e.Version != 1 {
							t.Errorf("client %d: %s version %d after %d (%s)", i, e.Topic, e.Version, have, e.Phase)
							done = true
						}
						versions[e.Topic] = e.Version
						since.Seq = max(since.Seq, e.Seq)
						if e.Topic == "a.x" && e.Version == rounds {
							ws.Close()
							return
						}
					}
				}
				ws.Close()
				if done {
					return
				}
			}
			t.Errorf("client %d: not done in time, at %v", i, versions)
		})
	}
	for i := range rounds {
		for _, topic := range topics {
			r.event(topic, fmt.Sprint(i))
		}
		if i%10 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	clients.Wait()
}
