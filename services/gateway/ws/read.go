package ws

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"
)

// A ProtocolError is a breach of RFC 6455 by a client, in words for the close
// frame.
type ProtocolError string

// Error implements error.
func (e ProtocolError) Error() string { return "websocket: " + string(e) }

// The breaches, with the section that forbids them.
const (
	errReservedBit   = ProtocolError("reserved bit set")                       // 5.2
	errOpcode        = ProtocolError("unknown opcode")                         // 5.2
	errNoMask        = ProtocolError("frame without mask")                     // 5.1
	errLongLength    = ProtocolError("length in more bytes than it needs")     // 5.2: the minimal number of bytes
	errHugeLength    = ProtocolError("length with its highest bit set")        // 5.2
	errLongControl   = ProtocolError("control frame of more than 125 bytes")   // 5.5
	errSplitControl  = ProtocolError("control frame in fragments")             // 5.5
	errNoBeginning   = ProtocolError("fragment of no message")                 // 5.4
	errNoEnd         = ProtocolError("message within a message")               // 5.4
	errShortClose    = ProtocolError("close frame with half a code")           // 5.5.1
	errCloseCode     = ProtocolError("close code that must not be sent")       // 7.4
	errCloseEncoding = ProtocolError("reason of the close frame is not UTF-8") // 5.5.1
)

// ErrTooBig is the error of a message that is longer than the reader's caller
// allows.
var ErrTooBig = errors.New("message too big")

// A Reader parses what one client sends. Between messages it holds no memory.
// Its zero value is ready; it is not safe for concurrent use.
type Reader struct {
	// Deflate is set where permessage-deflate was negotiated.
	Deflate bool

	part       []byte // of a frame that has not arrived completely
	fragments  []byte // of a message whose last fragment has not arrived
	op         byte   // the opcode of that message; 0: there is none
	compressed bool   // that message is compressed
	done       bool   // each returned false
}

// Unfinished reports whether a frame or a message has begun and not ended.
func (r *Reader) Unfinished() bool { return len(r.part) > 0 || r.op != 0 }

// Size returns how many bytes of memory are held.
func (r *Reader) Size() int { return cap(r.part) + cap(r.fragments) }

// Done reports whether each returned false: Feed must not be called again.
func (r *Reader) Done() bool { return r.done }

// Feed takes the next bytes from the client and calls each for every whole
// message and control frame. Feed changes b, and body is valid until each
// returns. When each returns false, Feed stops. A message has at most max bytes.
// After an error Feed must not be called again.
func (r *Reader) Feed(b []byte, max int, each func(op byte, body []byte) bool) error {
	if len(r.part) > 0 {
		r.part = append(r.part, b...)
		b = r.part
	}
	whole := len(b)
	for {
		h, err := parseHead(b, r.Deflate)
		if err == nil && h.len > 0 {
			err = r.check(h, max)
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
		op, body, complete, err := r.message(h, body, max)
		if err != nil {
			return err
		}
		if complete && !each(op, body) {
			*r = Reader{done: true}
			return nil
		}
	}
	switch {
	case len(b) == 0:
		r.part = nil
	case len(b) < whole || len(r.part) == 0:
		r.part = append([]byte(nil), b...)
	}
	return nil
}

// message adds a frame to the message that it belongs to. If that is complete,
// it returns the message.
func (r *Reader) message(h head, body []byte, max int) (op byte, message []byte, complete bool, err error) {
	op = h.op
	switch {
	case IsControl(op):
	case !h.fin:
		if op != Continuation {
			r.op, r.compressed = op, h.compressed
		}
		r.fragments = append(r.fragments, body...)
		return 0, nil, false, nil
	case op == Continuation:
		op, body, h.compressed = r.op, append(r.fragments, body...), r.compressed
		r.op, r.fragments = 0, nil
	}
	if h.compressed {
		body, err = Inflate(body, max)
	}
	return op, body, err == nil, err
}

// check compares a frame with those before it.
func (r *Reader) check(h head, max int) error {
	switch {
	case IsControl(h.op):
		return nil
	case h.op == Continuation && r.op == 0:
		return errNoBeginning
	case h.op != Continuation && r.op != 0:
		return errNoEnd
	case h.size > uint64(max-len(r.fragments)):
		return ErrTooBig
	}
	return nil
}

// A head is the header of a client's frame. len is 0 while it is not complete.
type head struct {
	fin        bool
	compressed bool
	op         byte
	size       uint64
	mask       [4]byte
	len        int
}

// parseHead reads the header of a client's frame (RFC 6455, section 5.2). With
// deflate, RSV1 may be set on the first frame of a message (RFC 7692, section 6).
func parseHead(b []byte, deflate bool) (h head, err error) {
	if len(b) < 2 {
		return h, nil
	}
	h.fin, h.compressed, h.op = b[0]&Fin != 0, b[0]&Compressed != 0, b[0]&0x0f
	n := 2
	switch h.size = uint64(b[1] & 0x7f); {
	case b[0]&0x30 != 0, h.compressed && (!deflate || h.op != Text && h.op != Binary):
		return h, errReservedBit
	case h.op > Binary && h.op < CloseFrame || h.op > Pong:
		return h, errOpcode
	case b[1]&0x80 == 0:
		return h, errNoMask
	case IsControl(h.op) && !h.fin:
		return h, errSplitControl
	case IsControl(h.op) && h.size > maxControl:
		return h, errLongControl
	case h.op == CloseFrame && h.size == 1:
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

// ParseClose reads the body of a client's close frame, whose length the Reader
// has checked.
func ParseClose(body []byte) (code uint16, text string, err error) {
	if len(body) == 0 {
		return CloseNormal, "", nil
	}
	code = binary.BigEndian.Uint16(body)
	switch { // sections 7.4.1 and 7.4.2, and the codes registered since
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1013, code >= 3000 && code <= 4999:
	default:
		return 0, "", errCloseCode
	}
	if !utf8.Valid(body[2:]) {
		return 0, "", errCloseEncoding
	}
	return code, string(body[2:]), nil
}
