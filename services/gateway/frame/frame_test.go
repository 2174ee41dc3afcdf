package frame

import (
	"bytes"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/hub"
	"github.com/pollcast/pollcast/services/gateway/ws"
)

// A frame whose value was compressed beforehand is the same to a client, and
// under the hub's mutex no more than maxDeflate is compressed.
func TestCompressedBefore(t *testing.T) {
	text := func(n int) string { return `"` + strings.Repeat("a text ", n/7+1)[:n] + `"` }
	for name, tt := range map[string]struct {
		data   string
		before bool // compressed beforehand
		want   bool // the frame is compressed
	}{
		"short":            {text(1000), true, true},
		"long":             {text(1 << 20), true, true},
		"not beforehand":   {text(1 << 20), false, false},
		"short, not so":    {text(10_000), false, true},
		"noise":            {`"` + noise(1<<20) + `"`, true, true},
		"with white space": {"[ " + text(1<<20) + " ]", true, false}, // no poller of ours stores that
	} {
		for _, fm := range []hub.Format{hub.JSONDeflate, hub.ProtoDeflate} {
			f := wire.ServerFrame{Event: &wire.Event{Topic: "a.b", Epoch: "E", Seq: 42, Version: 1, Data: []byte(tt.data), Phase: wire.Live, Breaker: event.Closed}}
			var packed []byte
			if tt.before {
				packed = ws.CompressValue([]byte(tt.data))
			}
			whole := Encode(fm.Plain(), &f)
			b := Encoder{}.Compress(whole, f.Event.Data, packed)
			if isPlain := bytes.Equal(b, whole); isPlain == tt.want && !(fm == hub.ProtoDeflate && name == "with white space") {
				t.Errorf("%s, format %d: compressed %v, want %v", name, fm, !isPlain, tt.want)
			} else if !isPlain {
				have, err := ws.Inflate(ws.Payload(b), math.MaxInt32)
				if err != nil || b[0]&ws.Compressed == 0 || !bytes.Equal(have, ws.Payload(whole)) {
					t.Errorf("%s, format %d: %v, %.100q", name, fm, err, have)
				}
				if len(b) > len(whole)/3 && name != "noise" {
					t.Errorf("%s, format %d: %d bytes of %d", name, fm, len(b), len(whole))
				}
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

// Where a client is in its feed is read from the frames, compressed or not.
func TestSeqOfCompressed(t *testing.T) {
	for fm := range hub.Format(hub.Formats) {
		for _, size := range []int{0, 100, 1000, 100_000} {
			data := `"` + strings.Repeat("x", size) + `"`
			e := &wire.Event{Topic: "a.b", Epoch: "E", Seq: 42, Version: 1, Data: []byte(data), Phase: wire.Live, Breaker: event.Closed}
			b := Encode(fm, &wire.ServerFrame{Event: e})
			if n := Len(fm, b); n != len(b) {
				t.Errorf("format %d, %d bytes: length %d, want %d", fm, size, n, len(b))
			}
			if seq, ok := EventSeq(fm, b); !ok || seq != 42 {
				t.Errorf("format %d, %d bytes: seq %d %v", fm, size, seq, ok)
			}
			if fm.Plain() != fm && size >= 1000 && b[0]&ws.Compressed == 0 {
				t.Errorf("format %d, %d bytes: not compressed", fm, size)
			}
			if fm.Plain() != fm && b[0]&ws.Compressed != 0 {
				have, err := ws.Inflate(ws.Payload(b), math.MaxInt32)
				whole := Encode(fm.Plain(), &wire.ServerFrame{Event: e})
				if err != nil || !bytes.Equal(have, ws.Payload(whole)) {
					t.Errorf("format %d, %d bytes: %v, %.100q", fm, size, err, have)
				}
			}
		}
	}
}

// What a browser sends back is what it was given, or it is refused.
func FuzzLastEventID(f *testing.F) {
	for _, id := range []string{"E:1", "2026-11-22T10:00:00Z:7", ":1", "E:", "E", "", "E:-1", "E:18446744073709551615", "E:18446744073709551616", "a:b:3"} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		since, err := ParseEventID(id)
		if err != nil {
			return
		}
		b := appendSSE(nil, &wire.ServerFrame{Event: &wire.Event{Epoch: since.Epoch, Seq: since.Seq}}, []byte("{}"))
		if seq, ok := sseSeq(b); !bytes.ContainsAny([]byte(since.Epoch), "\r\n") && (!ok || seq != since.Seq) {
			t.Errorf("%q was taken for %+v, whose own id reads as %d %v", id, since, seq, ok)
		}
	})
}
