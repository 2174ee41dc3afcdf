package ws

import (
	"encoding/binary"
	"strings"
)

// Opcodes of RFC 6455, section 5.2. A server's frame is always a whole message:
// its first byte is Fin with an opcode.
const (
	Continuation = 0x0
	Text         = 0x1
	Binary       = 0x2
	CloseFrame   = 0x8
	Ping         = 0x9
	Pong         = 0xA

	// Fin marks the last frame of a message.
	Fin = 0x80
	// Compressed (RSV1) marks the first frame of a compressed message: RFC 7692,
	// section 6.
	Compressed = 0x40
)

// CloseNormal is the status code that stands for a close frame without a code.
const CloseNormal = 1000

// MaxHeader is the longest header of a server's frame, in bytes.
const MaxHeader = 10

// maxControl is the longest payload of a control frame, in bytes: RFC 6455,
// section 5.5.
const maxControl = 125

// IsControl reports whether an opcode is that of a control frame.
func IsControl(op byte) bool { return op >= CloseFrame }

// AppendHeader appends the header of a server's frame with n bytes of payload.
// first is the first byte of the frame, such as Fin|Text.
func AppendHeader(dst []byte, first byte, n int) []byte {
	switch {
	case n < 126:
		return append(dst, first, byte(n))
	case n <= 0xFFFF:
		return append(dst, first, 126, byte(n>>8), byte(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, first, 127), uint64(n))
}

// Payload returns the payload of a server's frame.
func Payload(frame []byte) []byte { return frame[headerLen(frame):] }

// FrameLen returns the length, with its header, of the server's frame that b
// begins with.
func FrameLen(b []byte) int {
	switch n := int(b[1]); n {
	case 126:
		return 4 + int(binary.BigEndian.Uint16(b[2:]))
	case 127:
		return 10 + int(binary.BigEndian.Uint64(b[2:]))
	default:
		return 2 + n
	}
}

// headerLen returns the length of the header of the server's frame b.
func headerLen(b []byte) int {
	switch b[1] {
	case 126:
		return 4
	case 127:
		return 10
	}
	return 2
}

// Control returns a control frame. Its payload has at most 125 bytes.
func Control(op byte, payload []byte) []byte {
	return append(AppendHeader(nil, Fin|op, len(payload)), payload...)
}

// Close returns a close frame. A text that is too long is cut between two
// characters.
func Close(code uint16, text string) []byte {
	if most := maxControl - 2; len(text) > most {
		text = strings.ToValidUTF8(text[:most], "")
	}
	return Control(CloseFrame, append(binary.BigEndian.AppendUint16(nil, code), text...))
}
