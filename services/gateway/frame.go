package gateway

import (
	"encoding/binary"
	"strings"

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

// maxHeader is the longest header of an unmasked frame.
const maxHeader = 10

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
func frameLen(fm format, b []byte) int {
	if fm == asSSE {
		return sseLen(b)
	}
	switch n := int(b[1]); n {
	case 126:
		return 4 + int(binary.BigEndian.Uint16(b[2:]))
	case 127:
		return 10 + int(binary.BigEndian.Uint64(b[2:]))
	default:
		return 2 + n
	}
}

func controlFrame(op byte, payload []byte) []byte {
	return append(appendHeader(nil, op, len(payload)), payload...)
}

// closing is the last frame of a connection.
func (fm format) closing(code wire.CloseCode, text string) []byte {
	if fm == asSSE {
		return sseClose(code, text)
	}
	return closeFrame(code, text)
}

func closeFrame(code wire.CloseCode, text string) []byte {
	if len(text) > 123 { // RFC 6455, section 5.5: 125 bytes with the code
		text = strings.ToValidUTF8(text[:123], "") // not half a character
	}
	payload := binary.BigEndian.AppendUint16(nil, uint16(code))
	return controlFrame(opClose, append(payload, text...))
}
