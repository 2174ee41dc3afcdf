package ws

import (
	"compress/flate"
	"errors"
	"io"
	"sync"
)

// ErrInflate is the error of a compressed message that cannot be decompressed.
var ErrInflate = errors.New("message cannot be decompressed")

// maxFinals is how many blocks with BFINAL a message may have. For each the
// decompressor starts again, which costs a client two bytes.
const maxFinals = 16

var inflaters = sync.Pool{New: func() any { return flate.NewReader(nil) }}

// A packedMessage is a message's bytes and then its tail: the end of its last
// block, which the sender has removed (RFC 7692, section 7.2.2), and an empty
// final block.
type packedMessage struct {
	body []byte
	tail string
}

const packedTail = "\x00\x00\xff\xff\x01\x00\x00\xff\xff"

// ReadByte keeps flate from reading more than it needs.
func (p *packedMessage) ReadByte() (byte, error) {
	var b [1]byte
	_, err := p.Read(b[:])
	return b[0], err
}

// Read implements io.Reader.
func (p *packedMessage) Read(b []byte) (int, error) {
	n := copy(b, p.body)
	if p.body = p.body[n:]; n == 0 {
		n = copy(b, p.tail)
		p.tail = p.tail[n:]
	}
	if n == 0 && len(b) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Inflate decompresses a message of at most limit bytes. It allocates at most
// twice limit, however long the message would become.
func Inflate(body []byte, limit int) ([]byte, error) {
	z := inflaters.Get().(io.ReadCloser)
	defer inflaters.Put(z)
	p := &packedMessage{body: body, tail: packedTail}
	defer func() { *p = packedMessage{} }() // the pool would keep the message
	out := make([]byte, 0, min(limit, 4*len(body)+64)+1)
	for finals := 0; len(p.body) > 0; finals++ { // blocks may follow a final one: section 7.2.3.4
		if finals == maxFinals {
			return nil, ErrInflate
		}
		_ = z.(flate.Resetter).Reset(p, nil) // never fails
		for {
			if len(out) > limit {
				return nil, ErrTooBig
			}
			if len(out) == cap(out) {
				out = append(make([]byte, 0, min(limit+1, 2*cap(out))), out...)
			}
			n, err := z.Read(out[len(out):cap(out)])
			out = out[:len(out)+n]
			if err == io.EOF {
				break
			}
			if err != nil {
				return nil, ErrInflate
			}
		}
	}
	if len(out) > limit {
		return nil, ErrTooBig
	}
	if p.tail != "" && p.tail != packedTail {
		return nil, ErrInflate // it ended within its last block
	}
	return out, nil
}
