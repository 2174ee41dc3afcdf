package gateway

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/pollcast/pollcast/pkg/wire"
)

// WebSocket opcodes with the FIN bit (RFC 6455, section 5.2).
const (
	opText   = 0x80 | 0x1
	opBinary = 0x80 | 0x2
	opClose  = 0x80 | 0x8
	opPing   = 0x80 | 0x9
	opPong   = 0x80 | 0xA
)

// appendHeader appends the header of an unmasked frame of n payload bytes.
func appendHeader(dst []byte, op byte, n int) []byte {
	switch {
	case n < 126:
		return append(dst, op, byte(n))
	case n <= 0xFFFF:
		return append(dst, op, 126, byte(n>>8), byte(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, op, 127), uint64(n))
}

// headerLen is the length of the header of the server frame b starts with.
func headerLen(b []byte) int {
	switch b[1] {
	case 126:
		return 4
	case 127:
		return 10
	}
	return 2
}

// frameLen is the length, with its header, of the server frame b starts with.
func frameLen(b []byte) int {
	switch n := int(b[1]); n {
	case 126:
		return 4 + int(binary.BigEndian.Uint16(b[2:]))
	case 127:
		return 10 + int(binary.BigEndian.Uint64(b[2:]))
	default:
		return 2 + n
	}
}

// A format is how a connection's frames are encoded.
type format uint8

const (
	asJSON  format = iota // wire.ProtocolJSON
	asProto               // wire.ProtocolProto
	formats = iota
)

// encode makes the WebSocket frame of a server frame.
func encode(fm format, f *wire.ServerFrame) []byte { return appendFrame(nil, fm, f) }

func appendFrame(dst []byte, fm format, f *wire.ServerFrame) []byte {
	b, op, err := []byte(nil), byte(opText), error(nil)
	if fm == asProto {
		op = opBinary
		b, err = f.MarshalProto()
	} else {
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		err = enc.Encode(f)
		b = bytes.TrimSuffix(buf.Bytes(), []byte{'\n'})
	}
	if err != nil {
		// Every field is ours or was checked to be JSON, in UTF-8, at intake.
		panic(fmt.Sprintf("gateway: encode frame: %v", err))
	}
	return append(appendHeader(dst, op, len(b)), b...)
}

// A once encodes a frame at most once per format, however many feeds want it.
type once struct {
	frame *wire.ServerFrame
	bytes [formats][]byte
}

func (o *once) as(fm format) []byte {
	if o.bytes[fm] == nil {
		o.bytes[fm] = encode(fm, o.frame)
	}
	return o.bytes[fm]
}

func controlFrame(op byte, payload []byte) []byte {
	return append(appendHeader(nil, op, len(payload)), payload...)
}

func closeFrame(code wire.CloseCode, text string) []byte {
	if len(text) > 123 { // RFC 6455, section 5.5: 125 bytes with the code
		text = text[:123]
	}
	payload := binary.BigEndian.AppendUint16(nil, uint16(code))
	return controlFrame(opClose, append(payload, text...))
}
