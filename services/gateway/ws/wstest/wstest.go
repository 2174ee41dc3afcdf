// Package wstest makes a client's frames for tests of a WebSocket server. It
// shares no code with package ws, which it is to test.
package wstest

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
)

// First bytes of frames: RFC 6455, section 5.2.
const (
	Cont, Text, Binary = 0x0, 0x1, 0x2
	Close, Ping, Pong  = 0x8, 0x9, 0xA
	Fin, RSV1          = 0x80, 0x40
)

// ClientFrame returns a masked frame as RFC 6455, section 5.2, has it, its length
// in as few bytes as it takes.
func ClientFrame(first byte, payload []byte) []byte {
	width := 0
	switch n := len(payload); {
	case n > 0xFFFF:
		width = 8
	case n > 125:
		width = 2
	}
	return WideFrame(first, payload, width)
}

// WideFrame returns a masked frame with its length in width bytes after the
// second byte: 0, 2 or 8.
func WideFrame(first byte, payload []byte, width int) []byte {
	n := len(payload)
	b := []byte{first}
	switch width {
	case 0:
		b = append(b, 0x80|byte(n))
	case 2:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	case 8:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	mask := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	b = append(b, mask[:]...)
	for i, c := range payload {
		b = append(b, c^mask[i%4])
	}
	return b
}

// Unmasked returns a frame without mask, of at most 125 bytes of payload.
func Unmasked(first byte, payload string) []byte {
	return append([]byte{first, byte(len(payload))}, payload...)
}

// ClosingFrame returns a close frame with a code and a reason.
func ClosingFrame(code int, reason string) []byte {
	return ClientFrame(Fin|Close, append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...))
}

// Deflate returns the payload of a compressed message: RFC 7692, section 7.2.1.
func Deflate(b []byte) []byte {
	var out bytes.Buffer
	w, _ := flate.NewWriter(&out, flate.BestCompression) // fails for unknown levels only
	_, _ = w.Write(b)
	_ = w.Flush()
	return out.Bytes()[:out.Len()-4]
}

// DeflateFinal returns the payload of a compressed message that ends with a block
// with BFINAL: RFC 7692, section 7.2.3.4.
func DeflateFinal(b []byte) []byte {
	var out bytes.Buffer
	w, _ := flate.NewWriter(&out, flate.BestCompression)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}
