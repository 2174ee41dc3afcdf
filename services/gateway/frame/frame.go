// Package frame makes and reads the bytes of server frames: JSON and protobuf in
// WebSocket frames, compressed or not, and JSON as server-sent events.
//
//	wire.ServerFrame ─► Append (frame.go) ─► bytes for the socket
//	                     └─ sse.go
package frame

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/pkg/wire/wirepb"
	"github.com/pollcast/pollcast/services/gateway/hub"
	"github.com/pollcast/pollcast/services/gateway/ws"
	"google.golang.org/protobuf/proto"
)

// Encode makes the bytes of a server frame, ready for the socket.
func Encode(fm hub.Format, f *wire.ServerFrame) []byte { return Append(nil, fm, f) }

// Append appends the bytes of a server frame.
func Append(dst []byte, fm hub.Format, f *wire.ServerFrame) []byte {
	if p := fm.Plain(); p != fm {
		return append(dst, ws.Compress(Encode(p, f))...)
	}
	if fm == hub.Proto {
		b, err := f.MarshalProto()
		if err != nil {
			panic(fmt.Sprintf("frame: encode frame: %v", err)) // every string was checked at intake
		}
		return append(ws.AppendHeader(dst, ws.Fin|ws.Binary, len(b)), b...)
	}
	scratch := scratches.Get().(*[]byte)
	b, err := f.AppendJSON((*scratch)[:0])
	if err != nil {
		panic(fmt.Sprintf("frame: %v", err)) // every value was checked at intake
	}
	if fm == hub.SSE {
		dst = appendSSE(dst, f, b)
	} else {
		dst = append(ws.AppendHeader(slices.Grow(dst, len(b)+ws.MaxHeader), ws.Fin|ws.Text, len(b)), b...)
	}
	if cap(b) <= maxScratch {
		*scratch = b
		scratches.Put(scratch)
	}
	return dst
}

// scratches are for a frame whose length must be known before its header is
// written; a long one is not kept.
var scratches = sync.Pool{New: func() any { return new([]byte) }}

const maxScratch = 64 << 10

// Marshal makes JSON without escaping what is only special in HTML.
func Marshal(v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(fmt.Sprintf("frame: encode frame: %v", err)) // every value was checked at intake
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte{'\n'})
}

// An Encoder makes the bytes of frames for the hub.
type Encoder struct{}

// Append implements hub.Encoder.
func (Encoder) Append(dst []byte, fm hub.Format, f *wire.ServerFrame) []byte {
	return Append(dst, fm, f)
}

// maxDeflate is the longest piece of a frame that is compressed under the hub's
// mutex, in bytes: it takes a tenth of a millisecond. Longer values are compressed
// before; a frame whose value was not is sent as it is.
const maxDeflate = 16 << 10

// Compress implements hub.Encoder.
func (Encoder) Compress(frame, value, packed []byte) []byte {
	return ws.CompressAround(frame, value, packed, maxDeflate)
}

// CompressValue implements hub.Encoder.
func (Encoder) CompressValue(value []byte) []byte { return ws.CompressValue(value) }

// Len returns the length of the frame that b begins with.
func Len(fm hub.Format, b []byte) int {
	if fm == hub.SSE {
		return sseLen(b)
	}
	return ws.FrameLen(b)
}

// Close returns the last frame of a connection.
func Close(fm hub.Format, code wire.CloseCode, text string) []byte {
	if fm == hub.SSE {
		return sseClose(code, text)
	}
	return ws.Close(uint16(code), text)
}

// EventSeq returns the sequence number of a frame that holds an event.
func EventSeq(fm hub.Format, frame []byte) (uint64, bool) {
	if fm == hub.SSE {
		return sseSeq(frame)
	}
	payload := ws.Payload(frame)
	if frame[0]&ws.Compressed != 0 {
		var err error
		if payload, err = ws.Inflate(payload, math.MaxInt32); err != nil {
			panic(fmt.Sprintf("frame: %v", err)) // it was compressed here
		}
	}
	if fm.Plain() == hub.Proto {
		var f wirepb.ServerFrame
		if proto.Unmarshal(payload, &f) != nil || f.GetEvent() == nil {
			return 0, false
		}
		return f.GetEvent().Seq, true
	}
	var f struct {
		Event *struct {
			Seq uint64 `json:"seq"`
		} `json:"event"`
	}
	if json.Unmarshal(payload, &f) != nil || f.Event == nil {
		return 0, false
	}
	return f.Event.Seq, true
}
