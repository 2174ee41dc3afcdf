package gateway

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
)

// position publishes an event of a walk; a negative from is no reorganisation.
func (r *rig) position(topic string, n, from int64, data string) *event.Event {
	r.t.Helper()
	r.versions[topic]++
	now := time.Now().UTC().Truncate(time.Millisecond)
	e := &event.Event{
		Topic: topic, Poll: topic, Position: &n, Reorganised: from >= 0, Data: json.RawMessage(data),
		Version: r.versions[topic], ChangedAt: now, AsOf: now, Fence: 1,
	}
	if _, err := r.js.PublishMsg(r.t.Context(), r.names.EventMsg(e, now)); err != nil {
		r.t.Fatal(err)
	}
	return e
}

// The events of a walk carry their positions, live and in a snapshot. That one
// has come does not say that the walk is at its head: only the record does.
func TestWalk(t *testing.T) {
	r := newRig(t, nil)
	p := r.dial("/v1/ws?topics=eth.>")
	p.until("subscribed", func(f wire.ServerFrame) bool { return f.Subscribed != nil })
	r.fresh(event.Freshness{Poll: "eth.blocks", AsOf: time.Now().UTC().Add(-time.Hour), Stale: true, Reason: event.NotAdvancing})
	r.position("eth.blocks", 0, -1, `{"n":0}`)
	r.position("eth.blocks", 1, -1, `{"n":1}`)
	last := r.position("eth.blocks", 0, 1, `{"reorganised":{"from":1,"to":0}}`)
	for _, want := range []struct {
		position    int64
		reorganised bool
	}{{0, false}, {1, false}, {0, true}} {
		e := p.until("a position", func(f wire.ServerFrame) bool { return f.Event != nil }).Event
		if e.Position == nil || *e.Position != want.position || e.Reorganised != want.reorganised || !e.Stale || e.Reason != event.NotAdvancing {
			t.Errorf("have %+v, want position %d, reorganised %v, stale", e, want.position, want.reorganised)
		}
	}
	late := r.dial("/v1/ws?topics=eth.>")
	e := late.until("the snapshot", func(f wire.ServerFrame) bool { return f.Event != nil }).Event
	f := late.next().Fresh
	if *e.Position != 0 || !e.Reorganised || !e.Stale || f == nil || !f.Stale || !f.AsOf.Equal(last.AsOf) {
		t.Errorf("snapshot %+v with %+v", e, f)
	}
	res, err := http.Get("http://" + r.gw.Addr() + "/v1/values?topics=eth.blocks")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || !strings.Contains(string(body), `"position":0,"reorganised":true`) {
		t.Errorf("%v: %s", err, body)
	}
	r.fresh(event.Freshness{Poll: "eth.blocks", AsOf: last.AsOf})
	if f := p.until("at the head", func(f wire.ServerFrame) bool { return f.Fresh != nil && !f.Fresh.Stale }).Fresh; !f.AsOf.Equal(last.AsOf) {
		t.Errorf("fresh as of %v, want %v", f.AsOf, last.AsOf)
	}
}
