package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/ws"
)

// A format is how a connection's frames are encoded.
type format uint8

const (
	asJSON         format = iota // wire.ProtocolJSON
	asProto                      // wire.ProtocolProto
	asSSE                        // text/event-stream
	asJSONDeflate                // JSON, compressed
	asProtoDeflate               // protobuf, compressed
	formats        = iota
)

// plain is the format without compression.
func (fm format) plain() format {
	switch fm {
	case asJSONDeflate:
		return asJSON
	case asProtoDeflate:
		return asProto
	}
	return fm
}

// encode makes the bytes of a server frame, ready for the socket.
func encode(fm format, f *wire.ServerFrame) []byte { return appendFrame(nil, fm, f) }

func appendFrame(dst []byte, fm format, f *wire.ServerFrame) []byte {
	if p := fm.plain(); p != fm {
		return append(dst, ws.Compress(encode(p, f))...)
	}
	if fm == asProto {
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
	if fm == asSSE {
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

// A once has a frame encoded at most once per format, however many feeds want it.
type once struct {
	frame  *wire.ServerFrame
	shrunk []byte // its value compressed; nil: it was not
	bytes  [formats][]byte
}

// maxDeflate is the longest piece of a frame that is compressed under the hub's
// mutex, in bytes: it takes a tenth of a millisecond. Longer values are compressed
// before (packed); a frame whose value was not is sent as it is.
const maxDeflate = 16 << 10

// deflated returns the frame compressed. whole is the frame in the plain format.
func (o *once) deflated(whole []byte) []byte {
	if o.frame.Event == nil {
		return ws.CompressAround(whole, nil, nil, maxDeflate)
	}
	return ws.CompressAround(whole, o.frame.Event.Data, o.shrunk, maxDeflate)
}

// frameLen returns the length of the frame that b begins with.
func (fm format) frameLen(b []byte) int {
	if fm == asSSE {
		return sseLen(b)
	}
	return ws.FrameLen(b)
}

// closeFrame returns the last frame of a connection.
func (fm format) closeFrame(code wire.CloseCode, text string) []byte {
	if fm == asSSE {
		return sseClose(code, text)
	}
	return ws.Close(uint16(code), text)
}
