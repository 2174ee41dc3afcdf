package hub

import "github.com/pollcast/pollcast/pkg/wire"

// A Format is how a connection's frames are encoded.
type Format uint8

// The formats. The hub treats them alike, except that a compressed frame is made
// from the plain one.
const (
	JSON         Format = iota // wire.ProtocolJSON
	Proto                      // wire.ProtocolProto
	SSE                        // text/event-stream
	JSONDeflate                // JSON, compressed
	ProtoDeflate               // protobuf, compressed
	Formats      = iota        // their number
)

// Plain returns the format without compression.
func (fm Format) Plain() Format {
	switch fm {
	case JSONDeflate:
		return JSON
	case ProtoDeflate:
		return Proto
	}
	return fm
}

// An Encoder makes the bytes of frames. It may be used by several goroutines.
type Encoder interface {
	// Append appends a frame, ready for the socket.
	Append(dst []byte, fm Format, f *wire.ServerFrame) []byte
	// Compress returns a plain frame compressed, or the frame itself where that
	// does not pay. If the frame holds a value that was compressed before, value
	// and packed are its two forms.
	Compress(frame, value, packed []byte) []byte
	// CompressValue compresses a value for Compress; nil where that does not pay.
	CompressValue(value []byte) []byte
}
