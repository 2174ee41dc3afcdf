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
	opText  = 0x80 | 0x1
	opClose = 0x80 | 0x8
	opPing  = 0x80 | 0x9
	opPong  = 0x80 | 0xA
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

// textFrame makes the WebSocket frame of a server frame, as JSON.
func textFrame(f *wire.ServerFrame) []byte {
	return appendText(nil, f)
}

func appendText(dst []byte, f *wire.ServerFrame) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(f); err != nil {
		// Every field is ours or was checked to be JSON at intake.
		panic(fmt.Sprintf("gateway: encode frame: %v", err))
	}
	b := bytes.TrimSuffix(buf.Bytes(), []byte{'\n'})
	return append(appendHeader(dst, opText, len(b)), b...)
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
