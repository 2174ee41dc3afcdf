package gateway

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"

	"github.com/pollcast/pollcast/pkg/wire"
)

// A frameError is a breach of RFC 6455 in what a client sends, in words for the
// close frame.
type frameError string

func (e frameError) Error() string { return "websocket: " + string(e) }

// The breaches, with the section that forbids them.
const (
	errReservedBit   = frameError("reserved bit set")                       // 5.2
	errOpcode        = frameError("unknown opcode")                         // 5.2
	errNoMask        = frameError("frame without mask")                     // 5.1
	errLongLength    = frameError("length in more bytes than it needs")     // 5.2: the minimal number of bytes MUST be used
	errHugeLength    = frameError("length with its highest bit set")        // 5.2
	errLongControl   = frameError("control frame of more than 125 bytes")   // 5.5
	errSplitControl  = frameError("control frame in fragments")             // 5.5
	errNoBeginning   = frameError("fragment of no message")                 // 5.4
	errNoEnd         = frameError("message within a message")               // 5.4
	errShortClose    = frameError("close frame with half a code")           // 5.5.1
	errCloseCode     = frameError("close code that must not be sent")       // 7.4
	errCloseEncoding = frameError("reason of the close frame is not UTF-8") // 5.5.1
)

// errTooBig ends a connection whose client sends more than maxMessage at once.
var errTooBig = errors.New("message too big")

// Opcodes of RFC 6455, section 5.2, as a client's frame has them.
const (
	continuation = 0x0
	textMessage  = 0x1
	binMessage   = 0x2
	closeMessage = 0x8
	pingMessage  = 0x9
	pongMessage  = 0xA
)

// inbound takes apart what a client sends. Between messages it holds nothing.
type inbound struct {
	part  []byte // of a frame of which not all has come
	begun []byte // of a message of which not all fragments have come
	op    byte   // that message's opcode; 0: there is none
	over  bool   // the client has sent its close frame: nothing more is read

	deflate bool // messages may be compressed (RFC 7692)
	packed  bool // the one begun is
}

// unfinished reports whether the client has begun something.
func (in *inbound) unfinished() bool { return len(in.part) > 0 || in.op != 0 }

// size is how many bytes are held.
func (in *inbound) size() int { return cap(in.part) + cap(in.begun) }

// feed takes the next bytes, which it writes to, and calls each for every whole
// message and control frame, with a body that is the caller's until each
// returns; false means that no more is wanted. Messages are no longer than max
// bytes. After an error it must not be called again.
func (in *inbound) feed(b []byte, max int, each func(op byte, body []byte) bool) error {
	if len(in.part) > 0 {
		in.part = append(in.part, b...)
		b = in.part
	}
	whole := len(b)
	for {
		h, err := parseHead(b, in.deflate)
		if err == nil && h.len > 0 {
			err = in.fits(h, max)
		}
		if err != nil {
			return err
		}
		if h.len == 0 || uint64(len(b)-h.len) < h.size {
			break
		}
		body := b[h.len : h.len+int(h.size)]
		b = b[h.len+int(h.size):]
		for i := range body {
			body[i] ^= h.mask[i&3]
		}
		op := h.op
		switch {
		case op >= closeMessage:
		case !h.fin:
			if op != continuation {
				in.op, in.packed = op, h.packed
			}
			in.begun = append(in.begun, body...)
			continue
		case op == continuation:
			op, body, h.packed = in.op, append(in.begun, body...), in.packed
			in.op, in.begun = 0, nil
		}
		if h.packed {
			if body, err = inflate(body, max); err != nil {
				return err
			}
		}
		if !each(op, body) {
			*in = inbound{over: true}
			return nil
		}
	}
	switch {
	case len(b) == 0:
		in.part = nil
	case len(b) < whole || len(in.part) == 0:
		in.part = append([]byte(nil), b...)
	}
	return nil
}

// fits looks at a frame in the light of those before it.
func (in *inbound) fits(h head, max int) error {
	switch {
	case h.op >= closeMessage:
		return nil
	case h.op == continuation && in.op == 0:
		return errNoBeginning
	case h.op != continuation && in.op != 0:
		return errNoEnd
	case h.size > uint64(max-len(in.begun)):
		return errTooBig
	}
	return nil
}

// A head is what stands before a frame's payload; len is 0 while it is not whole.
type head struct {
	fin    bool
	packed bool // RSV1: the message is compressed
	op     byte
	size   uint64
	mask   [4]byte
	len    int
}

// parseHead reads the head of a client's frame (RFC 6455, section 5.2). With
// deflate, RSV1 may be set on the first frame of a message (RFC 7692, section 6).
func parseHead(b []byte, deflate bool) (h head, err error) {
	if len(b) < 2 {
		return h, nil
	}
	h.fin, h.packed, h.op = b[0]&0x80 != 0, b[0]&rsv1 != 0, b[0]&0x0f
	n := 2
	switch h.size = uint64(b[1] & 0x7f); {
	case b[0]&0x30 != 0, h.packed && (!deflate || h.op != textMessage && h.op != binMessage):
		return h, errReservedBit
	case h.op > binMessage && h.op < closeMessage || h.op > pongMessage:
		return h, errOpcode
	case b[1]&0x80 == 0:
		return h, errNoMask
	case h.op >= closeMessage && !h.fin:
		return h, errSplitControl
	case h.op >= closeMessage && h.size > 125:
		return h, errLongControl
	case h.op == closeMessage && h.size == 1:
		return h, errShortClose
	case h.size == 126:
		n = 4
	case h.size == 127:
		n = 10
	}
	if len(b) < n {
		return h, nil
	}
	switch n {
	case 4:
		if h.size = uint64(binary.BigEndian.Uint16(b[2:])); h.size < 126 {
			return h, errLongLength
		}
	case 10:
		if h.size = binary.BigEndian.Uint64(b[2:]); h.size>>63 != 0 {
			return h, errHugeLength
		}
		if h.size <= 0xFFFF {
			return h, errLongLength
		}
	}
	if len(b) >= n+4 {
		h.len = n + 4
		copy(h.mask[:], b[n:])
	}
	return h, nil
}

// parseClose reads the body of a client's close frame, of which parseHead has
// seen the length.
func parseClose(body []byte) (wire.CloseCode, string, error) {
	if len(body) == 0 {
		return wire.CloseNormal, "", nil
	}
	code := int(binary.BigEndian.Uint16(body))
	switch { // sections 7.4.1 and 7.4.2, and the codes registered since
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1013, code >= 3000 && code <= 4999:
	default:
		return 0, "", errCloseCode
	}
	if !utf8.Valid(body[2:]) {
		return 0, "", errCloseEncoding
	}
	return wire.CloseCode(code), string(body[2:]), nil
}
