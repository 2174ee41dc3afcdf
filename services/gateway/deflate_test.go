package gateway

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/pkg/wire/wirepb"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/proto"
)

// A stock client that has its messages compressed gets what the others get, and
// an event is compressed once per subprotocol, however many clients there are.
func TestCompressed(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Compression = true })
	compressed := func() int { return int(testutil.ToFloat64(r.gw.server.metrics.compressed)) }
	pad := strings.Repeat("compress me ", 40)
	r.event("a.first", `"`+pad+`"`)
	dial := func(deflate bool, protocol string) *websocket.Conn {
		t.Helper()
		d := websocket.Dialer{EnableCompression: deflate, Subprotocols: []string{protocol}}
		ws, res, err := d.Dial("ws://"+r.gw.Addr()+"/v1/ws", nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ws.Close() })
		if have := res.Header.Get("Sec-WebSocket-Extensions"); (have != "") != deflate {
			t.Fatalf("extensions %q, want deflate %v", have, deflate)
		}
		return ws
	}
	epoch := "" // of the last subscription
	// said is the topics, versions, sequence numbers and values of the next events.
	said := func(ws *websocket.Conn, n int) (events []string) {
		t.Helper()
		for len(events) < n {
			ws.SetReadDeadline(time.Now().Add(patience))
			kind, b, err := ws.ReadMessage()
			if err != nil {
				t.Fatalf("after %d events: %v", len(events), err)
			}
			if kind == websocket.BinaryMessage {
				var f wirepb.ServerFrame
				if err := proto.Unmarshal(b, &f); err != nil {
					t.Fatal(err)
				}
				if e := f.GetEvent(); e != nil {
					events = append(events, fmt.Sprintf("%s %d %d %s", e.Topic, e.Version, e.Seq, e.Data))
				}
				continue
			}
			p := &peer{t, ws}
			f := p.decode(b)
			if f.Subscribed != nil {
				epoch = f.Subscribed.Epoch
			}
			if e := f.Event; e != nil {
				events = append(events, fmt.Sprintf("%s %d %d %s", e.Topic, e.Version, e.Seq, e.Data))
			}
		}
		return events
	}
	eventually(t, "the gateway has read it", func() bool { return position(r.gw.server) == 1 })
	plain := dial(false, wire.ProtocolJSON)
	all := []*websocket.Conn{plain}
	for range 3 {
		all = append(all, dial(true, wire.ProtocolJSON), dial(true, wire.ProtocolProto))
	}
	for i, ws := range all {
		topics := []string{"a.>", "a.*", ">"}[i/2%3] // feeds of their own
		err := error(nil)
		if ws.Subprotocol() == wire.ProtocolProto {
			var b []byte
			b, err = proto.Marshal(&wirepb.ClientFrame{Frame: &wirepb.ClientFrame_Subscribe{Subscribe: &wirepb.Subscribe{Topics: []string{topics}}}})
			if err != nil {
				t.Fatal(err)
			}
			err = ws.WriteMessage(websocket.BinaryMessage, b)
		} else {
			err = ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"subscribe":{"topics":["%s"]}}`, topics))
		}
		if err != nil {
			t.Fatal(err)
		}
		if have := said(ws, 1); !strings.HasPrefix(have[0], "a.first 1 1 ") {
			t.Fatalf("snapshot %q", have)
		}
	}
	if n := compressed(); n != 0 {
		t.Errorf("%d live frames compressed before there was any", n)
	}
	const events = 50
	for i := range events {
		r.event([]string{"a.x", "a.y"}[i%2], fmt.Sprintf(`"%d %s"`, i, pad[:9*i]))
	}
	want := said(plain, events)
	for i, ws := range all[1:] {
		if have := said(ws, events); fmt.Sprint(have) != fmt.Sprint(want) {
			t.Errorf("client %d: have %q, want %q", i, have, want)
		}
	}
	if n := compressed(); n > 2*events || n < events {
		t.Errorf("%d live frames compressed, want one for each of %d events and of 2 subprotocols at most", n, events)
	}
	// From the middle, and at a rate.
	again := dial(true, wire.ProtocolJSON)
	if err := again.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"subscribe":{"topics":["a.>"],"since":{"seq":21,"epoch":"%s"}}}`, epoch)); err != nil {
		t.Fatal(err)
	}
	if have := said(again, events-20); fmt.Sprint(have) != fmt.Sprint(want[20:]) {
		t.Errorf("resumed: have %q, want %q", have, want[20:])
	}
	paced := dial(true, wire.ProtocolJSON)
	if err := paced.WriteMessage(websocket.TextMessage, []byte(`{"subscribe":{"topics":["a.x"],"maxHz":20}}`)); err != nil {
		t.Fatal(err)
	}
	said(paced, 1)
	before := compressed()
	for i := range 20 {
		r.event("a.x", fmt.Sprintf(`"last %d %s"`, i, pad))
	}
	for last := ""; !strings.Contains(last, `"last 19 `); {
		have := said(paced, 1)
		last = have[0]
	}
	if n := compressed() - before; n <= 40 {
		t.Errorf("%d live frames compressed, want some of the paced feed", n)
	}
	// Long values, of which some can hardly be made shorter.
	long := []string{`"` + strings.Repeat(pad, 500) + `"`, `"` + noise(100_000) + `"`, `"` + noise(2000) + `"`, `[ "` + strings.Repeat(pad, 100) + `" ]`, `"end"`}
	for _, data := range long {
		r.event("a.long", data)
	}
	for i, ws := range all {
		var have []string
		for len(have) < len(long) {
			if e := said(ws, 1)[0]; strings.HasPrefix(e, "a.long ") {
				have = append(have, e)
			}
		}
		for j, e := range have {
			if want := long[j]; !strings.HasSuffix(strings.ReplaceAll(e, " ", ""), strings.ReplaceAll(want, " ", "")) {
				t.Errorf("client %d: long value %d is %.100q", i, j, e)
			}
		}
	}
}

// noise can hardly be compressed.
func noise(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('0' + rand.IntN(75)) // up to z
		if b[i] == '\\' {
			b[i] = '!'
		}
	}
	return string(b)
}

func (p *peer) decode(b []byte) (f wire.ServerFrame) {
	p.t.Helper()
	if err := json.Unmarshal(b, &f); err != nil {
		p.t.Fatalf("frame %s: %v", b, err)
	}
	return f
}

// Without the setting, nothing is negotiated.
func TestCompressionIsOff(t *testing.T) {
	r := newRig(t, nil)
	ws, res, err := (&websocket.Dialer{EnableCompression: true}).Dial("ws://"+r.gw.Addr()+"/v1/ws", http.Header{})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	if have := res.Header.Values("Sec-WebSocket-Extensions"); len(have) > 0 {
		t.Errorf("extensions %q, want none", have)
	}
}
