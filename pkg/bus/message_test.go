package bus_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func names(t testing.TB) bus.Names {
	n, err := bus.NewNames("")
	if err != nil {
		t.Fatal(err)
	}
	return n
}

var noon = time.Date(2026, 11, 22, 12, 0, 0, 123e6, time.UTC)

// Every record comes back from a real stream as it was, live and by direct get.
func TestRoundTrip(t *testing.T) {
	s := bustest.Start(t)
	nc, js, n := s.JetStream()
	live := make(chan *nats.Msg, 16)
	if _, err := nc.ChanSubscribe(n.LiveAll(), live); err != nil {
		t.Fatal(err)
	}
	value := &event.Event{
		Topic: "eth.balance.0xAb%2E", Poll: "eth.balance", Key: "0xAb. ü\n", Data: json.RawMessage(`{"wei":"12"}`),
		Version: 7, ChangedAt: noon, AsOf: noon.Add(time.Second), Fence: 3, Upstream: "http://h:1/ a",
		Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}
	deletion := &event.Event{
		Topic: "eth.balance.1", Poll: "eth.balance", Key: "1", Deleted: true, Version: 8, ChangedAt: noon, AsOf: noon,
	}
	genesis, before := int64(0), int64(-1)
	block := &event.Event{
		Topic: "eth.blocks", Poll: "eth.blocks", Position: &genesis, Data: json.RawMessage(`{}`), Version: 1,
		ChangedAt: noon, AsOf: noon,
	}
	undone := &event.Event{
		Topic: "eth.blocks", Poll: "eth.blocks", Position: &before, Reorganised: true, Version: 2,
		ChangedAt: noon, AsOf: noon,
		Data: json.RawMessage(`{"reorganised":{"from":0,"to":-1}}`),
	}
	again := *block // the same position with another version is no duplicate
	again.Version = 3
	fresh := &event.Freshness{
		Poll: "eth.balance", AsOf: noon, CheckedAt: noon, Stale: true, Reason: event.BreakerOpen, Detail: "HTTP 503",
		Breaker: event.Open, ConsecutiveFailures: 5, NextProbeAt: noon.Add(time.Minute),
		IntervalMs: 1000, MaxAgeMs: 3000, Fence: 3,
	}
	breaker := &event.Breaker{
		Source: "eth", Upstream: "http://h:1", From: event.Closed, To: event.Open, Cause: "HTTP 503", Failures: 5,
		At: noon, Fence: 3,
	}
	circuits := []event.Circuit{
		{
			Upstream: "http://h:1", State: event.Open, Failures: 5, Cause: `HTTP 503 "x"`,
			At: noon, NextProbeAt: noon.Add(time.Minute),
		},
		{Upstream: "http://h:2", State: event.Closed, Failures: 4, At: noon},
	}
	place := &event.Place{Position: 7, Version: 9, ID: json.RawMessage(`"0xa"`), By: ".hash"}
	freshMsg, err := n.FreshMsg(fresh, place, circuits...)
	if err != nil {
		t.Fatal(err)
	}
	breakerMsg, err := n.BreakerMsg(breaker, circuits...)
	if err != nil {
		t.Fatal(err)
	}
	for i, tt := range []struct {
		msg  *nats.Msg
		want bus.Message
	}{
		{n.EventMsg(value, noon), bus.Message{Event: value}},
		{n.EventMsg(deletion, noon), bus.Message{Event: deletion}},
		{n.EventMsg(block, noon), bus.Message{Event: block}},
		{n.EventMsg(undone, noon), bus.Message{Event: undone}},
		{n.EventMsg(&again, noon), bus.Message{Event: &again}},
		{freshMsg, bus.Message{Fresh: fresh, Circuits: circuits, Place: place}},
		{breakerMsg, bus.Message{Breaker: breaker, Circuits: circuits}},
	} {
		seq := uint64(i + 1)
		for range 2 { // the second is a duplicate, and must not be stored
			if _, err := js.PublishMsg(t.Context(), tt.msg); err != nil {
				t.Fatal(err)
			}
		}
		ways := []*nats.Msg{<-live}
		if err := n.Range(t.Context(), nc, n.InAll(), seq, seq, func(m *nats.Msg) { ways = append(ways, m) }); err != nil {
			t.Fatal(err)
		}
		if len(ways) != 2 {
			t.Fatalf("message %d was read by %d ways, want 2", seq, len(ways))
		}
		for _, m := range ways {
			have, err := n.Decode(m)
			if err != nil {
				t.Fatalf("message %d: %v", seq, err)
			}
			if have.Seq != seq || have.Stored.IsZero() {
				t.Errorf("message %d: seq %d, stored %v", seq, have.Seq, have.Stored)
			}
			have.Seq, have.Stored = 0, time.Time{}
			if have.Event != nil && len(have.Event.Data) == 0 {
				have.Event.Data = nil
			}
			if !reflect.DeepEqual(have, tt.want) {
				t.Errorf("message %d:\nhave %+v %+v\nwant %+v %+v", seq, have, have.Event, tt.want, tt.want.Event)
			}
		}
	}
	// CloudEvents 1.0: the required attributes, in the NATS binding's binary mode.
	m := n.EventMsg(value, noon)
	for _, h := range []string{"ce-specversion", "ce-id", "ce-source", "ce-type"} {
		if len(m.Header[h]) != 1 || m.Header[h][0] == "" {
			t.Errorf("header %s is %q", h, m.Header[h])
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	n := names(t)
	good := func() *nats.Msg {
		e := event.Event{Topic: "a.b", Poll: "a.b", Data: json.RawMessage(`1`), Version: 1, ChangedAt: noon, AsOf: noon}
		m := n.EventMsg(&e, noon)
		m.Subject = n.Live("a.b")
		m.Header["Nats-Sequence"] = []string{"9"}
		m.Header["Nats-Subject"] = []string{n.In("a.b")}
		return m
	}
	if _, err := n.Decode(good()); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		harm func(*nats.Msg)
		want string
	}{
		{"no sequence", func(m *nats.Msg) { delete(m.Header, "Nats-Sequence") }, "Nats-Sequence"},
		{"bad sequence", func(m *nats.Msg) { m.Header["Nats-Sequence"] = []string{"x"} }, "Nats-Sequence"},
		{"foreign subject", func(m *nats.Msg) { m.Header["Nats-Subject"] = []string{"other.a"} }, "not a pollcast record"},
		{"wildcard", func(m *nats.Msg) { m.Header["Nats-Subject"] = []string{n.In("a.*")} }, "wildcard"},
		{"no JSON", func(m *nats.Msg) { m.Data = []byte(`{"a":`) }, "not JSON"},
		{"no version", func(m *nats.Msg) { delete(m.Header, "ce-version") }, "ce-version"},
		{"no type", func(m *nats.Msg) { delete(m.Header, "ce-type") }, "ce-type"},
		{"bad time", func(m *nats.Msg) { m.Header["ce-asof"] = []string{"today"} }, "ce-asof"},
		{"key not UTF-8", func(m *nats.Msg) { m.Header["ce-key"] = []string{"%FF"} }, "not UTF-8"},
		{"foreign poll", func(m *nats.Msg) { m.Header["ce-poll"] = []string{"z.b"} }, "not the topic's poll"},
		{"bad freshness", func(m *nats.Msg) {
			m.Header["Nats-Subject"], m.Data = []string{n.InFresh("a.b")}, []byte(`[]`)
			m.Header["ce-type"] = []string{event.TypeFresh}
		}, "freshness record"},
		{"freshness without a type", func(m *nats.Msg) {
			m.Header["Nats-Subject"], m.Data = []string{n.InFresh("a.b")}, []byte(`{}`)
			delete(m.Header, "ce-type")
		}, `ce-type "": not a pollcast record`},
		{"breaker of another type", func(m *nats.Msg) {
			m.Header["Nats-Subject"], m.Data = []string{n.InBreaker("a")}, []byte(`{}`)
		}, `ce-type "pollcast.event.v1": not a pollcast record`},
	} {
		m := good()
		tt.harm(m)
		if _, err := n.Decode(m); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: have error %v, want %q in it", tt.name, err, tt.want)
		}
	}
	m := good()
	m.Header["Nats-Subject"] = []string{n.In("a._later")}
	if d, err := n.Decode(m); err != nil || d.Seq != 9 || d.Event != nil {
		t.Errorf("a reserved record of a later version: %+v, %v; want it passed over", d, err)
	}
}

func FuzzDecode(f *testing.F) {
	n := names(f)
	f.Add("pollcast.in.a.b", "1", "pollcast.event.v1", "1", "2026-11-22T12:00:00Z", "a.b", []byte(`{}`))
	f.Add("pollcast.in.a._fresh", "1", "", "", "", "", []byte(`{"stale":true}`))
	f.Fuzz(func(t *testing.T, subject, seq, typ, version, at, poll string, data []byte) {
		m := &nats.Msg{Subject: "pollcast.live.x", Data: data, Header: nats.Header{
			"Nats-Subject": {subject}, "Nats-Sequence": {seq}, "Nats-Time-Stamp": {at},
			"ce-type": {typ}, "ce-version": {version}, "ce-fence": {version}, "ce-asof": {at}, "ce-changedat": {at},
			"ce-poll": {poll},
		}}
		d, err := n.Decode(m)
		if err == nil && d.Event != nil && !json.Valid(d.Event.Data) && !d.Event.Deleted {
			t.Fatalf("event with data %q", d.Event.Data)
		}
	})
}
