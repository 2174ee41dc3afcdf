package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"github.com/pollcast/pollcast/pkg/wire"
)

// A format is how a connection's frames are encoded.
type format uint8

const (
	asJSON         format = iota // wire.ProtocolJSON
	asProto                      // wire.ProtocolProto
	asSSE                        // text/event-stream
	asJSONDeflate                // JSON, compressed (deflate.go)
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
		return append(dst, deflated(encode(p, f))...)
	}
	if fm == asProto {
		b, err := f.MarshalProto()
		if err != nil {
			panic(fmt.Sprintf("gateway: encode frame: %v", err)) // every string was checked at intake
		}
		return append(appendHeader(dst, opBinary, len(b)), b...)
	}
	scratch := scratches.Get().(*[]byte)
	b, err := f.AppendJSON((*scratch)[:0])
	if err != nil {
		panic(fmt.Sprintf("gateway: %v", err)) // every value was checked at intake
	}
	if fm == asSSE {
		dst = appendSSE(dst, f, b)
	} else {
		dst = append(appendHeader(slices.Grow(dst, len(b)+maxHeader), opText, len(b)), b...)
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

// deflated is the frame compressed, of which whole is the plain form.
func (o *once) deflated(whole []byte) []byte {
	switch {
	case o.frame.Event != nil && o.shrunk != nil:
		return deflatedWith(whole, o.frame.Event.Data, o.shrunk)
	case len(whole) > deflateMost:
		return whole
	}
	return deflated(whole)
}
