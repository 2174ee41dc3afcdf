package gateway

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

// encode makes the bytes of a server frame, ready for the socket.
func encode(fm hub.Format, f *wire.ServerFrame) []byte { return appendFrame(nil, fm, f) }

func appendFrame(dst []byte, fm hub.Format, f *wire.ServerFrame) []byte {
	if p := fm.Plain(); p != fm {
		return append(dst, ws.Compress(encode(p, f))...)
	}
	if fm == hub.Proto {
		b, err := f.MarshalProto()
		if err != nil {
			panic(fmt.Sprintf("gateway: encode frame: %v", err)) // every string was checked at intake
		}
		return append(ws.AppendHeader(dst, ws.Fin|ws.Binary, len(b)), b...)
	}
	scratch := scratches.Get().(*[]byte)
	b, err := f.AppendJSON((*scratch)[:0])
	if err != nil {
		panic(fmt.Sprintf("gateway: %v", err)) // every value was checked at intake
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

// marshal makes JSON without escaping what is only special in HTML.
func marshal(v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(fmt.Sprintf("gateway: encode frame: %v", err)) // every value was checked at intake
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte{'\n'})
}

// An encoder makes the bytes of frames for the hub.
type encoder struct{}

// Append implements hub.Encoder.
func (encoder) Append(dst []byte, fm hub.Format, f *wire.ServerFrame) []byte {
	return appendFrame(dst, fm, f)
}

// maxDeflate is the longest piece of a frame that is compressed under the hub's
// mutex, in bytes: it takes a tenth of a millisecond. Longer values are compressed
// before; a frame whose value was not is sent as it is.
const maxDeflate = 16 << 10

// Compress implements hub.Encoder.
func (encoder) Compress(frame, value, packed []byte) []byte {
	return ws.CompressAround(frame, value, packed, maxDeflate)
}

// CompressValue implements hub.Encoder.
func (encoder) CompressValue(value []byte) []byte { return ws.CompressValue(value) }

// frameLen returns the length of the frame that b begins with.
func frameLen(fm hub.Format, b []byte) int {
	if fm == hub.SSE {
		return sseLen(b)
	}
	return ws.FrameLen(b)
}

// closeFrame returns the last frame of a connection.
func closeFrame(fm hub.Format, code wire.CloseCode, text string) []byte {
	if fm == hub.SSE {
		return sseClose(code, text)
	}
	return ws.Close(uint16(code), text)
}

// eventSeq returns the sequence number of a frame that holds an event.
func eventSeq(fm hub.Format, frame []byte) (uint64, bool) {
	if fm == hub.SSE {
		return sseSeq(frame)
	}
	payload := ws.Payload(frame)
	if frame[0]&ws.Compressed != 0 {
		var err error
		if payload, err = ws.Inflate(payload, math.MaxInt32); err != nil {
			panic(fmt.Sprintf("gateway: %v", err)) // it was compressed here
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
