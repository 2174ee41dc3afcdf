package gateway

import (
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/pkg/wire/wirepb"
	"github.com/pollcast/pollcast/services/gateway/hub"
	"google.golang.org/protobuf/proto"
)

// A connection that speaks pollcast.v1.proto gets binary frames that say what
// the JSON ones say, and what it sends is read as protobuf.
func TestProtoConnection(t *testing.T) {
	r := newRig(t, nil)
	r.event("host.cpu", `{"percent": 1}`)
	r.fresh(event.Freshness{Poll: "host.cpu", AsOf: time.Now().UTC(), Stale: true, Reason: event.Timeout, Detail: "no answer"})
	eventually(t, "the gateway has read it", func() bool { return position(r.gw.server) == 2 })
	ws, res, err := websocket.DefaultDialer.Dial("ws://"+r.gw.Addr()+"/v1/ws", http.Header{"Sec-Websocket-Protocol": {"other, " + wire.ProtocolProto}})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	if have := res.Header.Get("Sec-Websocket-Protocol"); have != wire.ProtocolProto {
		t.Fatalf("subprotocol %q, want %s", have, wire.ProtocolProto)
	}
	next := func() *wirepb.ServerFrame {
		t.Helper()
		ws.SetReadDeadline(time.Now().Add(patience))
		kind, b, err := ws.ReadMessage()
		if err != nil || kind != websocket.BinaryMessage {
			t.Fatalf("kind %d, %v; want a binary message", kind, err)
		}
		f := new(wirepb.ServerFrame)
		if err := proto.Unmarshal(b, f); err != nil {
			t.Fatal(err)
		}
		return f
	}
	send := func(f *wirepb.ClientFrame) {
		t.Helper()
		b, err := proto.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := ws.WriteMessage(websocket.BinaryMessage, b); err != nil {
			t.Fatal(err)
		}
	}
	if f := next(); f.GetWelcome().GetPingIntervalMs() != 30_000 {
		t.Fatalf("have %v, want welcome", f)
	}
	send(&wirepb.ClientFrame{Id: 1, Frame: &wirepb.ClientFrame_Subscribe{Subscribe: &wirepb.Subscribe{Topics: []string{"host.>"}}}})
	if f := next(); f.Id != 1 || f.GetSubscribed().GetSeq() != 2 {
		t.Fatalf("have %v, want subscribed at 2", f)
	}
	f := next()
	if e := f.GetEvent(); e.GetTopic() != "host.cpu" || e.Phase != "snapshot" || !e.Stale || e.Reason != "timeout" || string(e.Data) != `{"percent": 1}` {
		t.Fatalf("have %v, want the snapshot, stale", f)
	}
	if f := next(); f.GetFresh().GetDetail() != "no answer" {
		t.Fatalf("have %v, want the freshness", f)
	}
	r.event("host.cpu", `2`)
	if f := next(); f.GetEvent().GetVersion() != 2 || f.GetEvent().Phase != "live" {
		t.Fatalf("have %v, want version 2, live", f)
	}
	send(&wirepb.ClientFrame{Id: 2, Frame: &wirepb.ClientFrame_Ping{Ping: &wirepb.Ping{}}})
	if f := next(); f.Id != 2 || f.GetPong() == nil {
		t.Fatalf("have %v, want pong", f)
	}
	send(&wirepb.ClientFrame{Id: 3})
	if f := next(); f.Id != 3 || f.GetError().GetCode() != "unknown_frame" {
		t.Fatalf("have %v, want unknown_frame", f)
	}
	for _, bad := range []struct {
		kind int
		body string
	}{{websocket.TextMessage, `{"id":1,"ping":{}}`}, {websocket.BinaryMessage, "\xff\xff"}} {
		if err := ws.WriteMessage(bad.kind, []byte(bad.body)); err != nil {
			t.Fatal(err)
		}
		if f := next(); f.GetError().GetCode() != "bad_frame" {
			t.Fatalf("%q: have %v, want bad_frame", bad.body, f)
		}
	}
}

func FuzzDecodeClient(f *testing.F) {
	f.Add(false, []byte(`{"id":1,"subscribe":{"topics":["a.>"],"since":{"seq":1,"epoch":"E"}}}`))
	f.Add(false, []byte(`{"id":1,"subscribe":{"topics":["a.>"],"notOlderThan":{"seq":1,"epoch":"E"}}}`))
	f.Add(false, []byte(`{"id":18446744073709551615,"ping":{}}`))
	f.Add(true, []byte{0x08, 0x01, 0x22, 0x00})
	f.Fuzz(func(t *testing.T, binary bool, body []byte) {
		fm, kind := hub.JSON, websocket.TextMessage
		if binary {
			fm, kind = hub.Proto, websocket.BinaryMessage
		}
		frame, werr := decodeClient(fm, kind, body)
		set := 0
		for _, ok := range []bool{frame.Subscribe != nil, frame.Unsubscribe != nil, frame.Ping != nil, frame.Authenticate != nil} {
			if ok {
				set++
			}
		}
		if werr == nil && set != 1 {
			t.Fatalf("%q: accepted with %d frames", body, set)
		}
		if werr != nil && (werr.Code == "" || werr.Message == "") {
			t.Fatalf("%q: an error without words: %+v", body, werr)
		}
	})
}
