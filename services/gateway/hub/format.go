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

// frames holds one frame, encoded at most once for each format, however many
// feeds it goes to.
type frames struct {
	frame  *wire.ServerFrame
	packed []byte // the value compressed; nil: it was not
	bytes  [Formats][]byte
}

// in returns the frame in a format.
func (s *shared) in(fs *frames, fm Format) []byte {
	if b := fs.bytes[fm]; b != nil {
		return b
	}
	var b []byte
	if plain := fm.Plain(); plain == fm {
		b = s.Encoder.Append(nil, fm, fs.frame)
		s.Budget.Share(b)
	} else {
		var value []byte
		if fs.frame.Event != nil {
			value = fs.frame.Event.Data
		}
		whole := s.in(fs, plain)
		if b = s.Encoder.Compress(whole, value, fs.packed); len(b) < len(whole) {
			s.Metrics.Compressed.Inc()
			s.Budget.Share(b)
		}
	}
	fs.bytes[fm] = b
	return b
}
