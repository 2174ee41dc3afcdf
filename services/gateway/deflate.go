package gateway

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/pollcast/pollcast/pkg/bus"
)

// permessage-deflate (RFC 7692), without context takeover in either direction:
// a frame is compressed once for everybody, and a client that says nothing
// holds no window. What is made for one connection alone (answers, replays,
// what a slow client skips to) is not compressed.

const (
	rsv1 = 0x40 // of the first frame of a compressed message: section 6
	// minDeflate is the shortest payload worth compressing.
	minDeflate = 128
	// maxFinals is how many blocks with BFINAL a message may have: each sets the
	// decompressor up anew, and takes a client two bytes.
	maxFinals = 16
)

// errInflate ends a connection whose client sends what cannot be decompressed.
var errInflate = errors.New("message cannot be decompressed")

var (
	deflaters = sync.Pool{New: func() any {
		d := new(deflater)
		d.z, _ = flate.NewWriter(d, flate.BestSpeed) // fails for unknown levels only
		return d
	}}
	inflaters = sync.Pool{New: func() any { return flate.NewReader(nil) }}
)

type deflater struct {
	z   *flate.Writer
	out []byte
}

func (d *deflater) Write(b []byte) (int, error) {
	d.out = append(d.out, b...)
	return len(b), nil
}

// deflated is a frame compressed (section 7.2.1), or the frame itself where
// that is no longer.
func deflated(frame []byte) []byte { return deflatedWith(frame, nil, nil) }

// deflatedWith is the same of a frame that holds a value which was compressed
// before (shrink): only what stands before and after it is left to do. Blocks
// that end at a byte and refer to nothing before them can be put together.
func deflatedWith(frame, value, shrunk []byte) []byte {
	payload := frame[headerLen(frame):]
	if len(payload) < minDeflate {
		return frame
	}
	d := deflaters.Get().(*deflater)
	defer deflaters.Put(d)
	d.out = d.out[:0]
	rest := payload
	if len(shrunk) > 0 {
		// The value's head is looked for: nothing before it is as long.
		at := bytes.Index(payload, value[:min(len(value), 64)])
		if at >= 0 && bytes.HasPrefix(payload[at:], value) {
			d.add(payload[:at])
			d.out = append(d.out, shrunk...)
			rest = payload[at+len(value):]
		}
		if len(rest) > deflateMost {
			return frame // it holds the value in another form
		}
	}
	d.add(rest)
	body := d.out[:len(d.out)-4] // 00 00 ff ff goes
	if cap(d.out) > maxScratch {
		d.out = nil
	}
	if len(body) >= len(payload) {
		return frame
	}
	return append(appendHeader(make([]byte, 0, maxHeader+len(body)), frame[0]|rsv1, len(body)), body...)
}

// add compresses a piece, up to and including the 00 00 ff ff of a flush.
func (d *deflater) add(piece []byte) {
	d.z.Reset(d)
	_, _ = d.z.Write(piece) // d takes everything
	_ = d.z.Flush()
}

// shrink compresses a value for deflatedWith; nil where it is no shorter.
func shrink(value []byte) []byte {
	d := deflaters.Get().(*deflater)
	defer deflaters.Put(d)
	d.out = d.out[:0]
	d.add(value)
	defer func() {
		if cap(d.out) > maxScratch {
			d.out = nil
		}
	}()
	if len(d.out) >= len(value) {
		return nil
	}
	return bytes.Clone(d.out)
}

// shrinkLeast is the shortest value that is compressed before the hub's mutex
// is taken, and deflateMost the longest frame that is compressed under it (a
// tenth of a millisecond). Longer ones, of which that was not done or did not
// make them shorter, are sent as they are.
const (
	shrinkLeast = 1 << 10
	deflateMost = 16 << 10
)

// shrunk are the messages' values compressed, where anybody would have them
// so: nil otherwise.
func (h *hub) shrunk(msgs []bus.Message) [][]byte {
	if h.deflating.Load() == 0 {
		return nil
	}
	out := make([][]byte, len(msgs))
	for i := range msgs {
		if e := msgs[i].Event; e != nil && len(e.Data) >= shrinkLeast {
			out[i] = shrink(e.Data)
		}
	}
	return out
}

// A packed message is its bytes and then tail: the end of its last block, which
// the sender has taken away (section 7.2.2), and an empty final block.
type packed struct {
	body []byte
	tail string
}

const packedTail = "\x00\x00\xff\xff\x01\x00\x00\xff\xff"

// ReadByte keeps flate from reading more than it needs.
func (p *packed) ReadByte() (byte, error) {
	var b [1]byte
	_, err := p.Read(b[:])
	return b[0], err
}

func (p *packed) Read(b []byte) (int, error) {
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

// inflate decompresses a message to no more than limit bytes, and takes no more
// memory than twice that, however much it would be.
func inflate(body []byte, limit int) ([]byte, error) {
	z := inflaters.Get().(io.ReadCloser)
	defer inflaters.Put(z)
	p := &packed{body: body, tail: packedTail}
	defer func() { *p = packed{} }() // the pool would keep the message
	out := make([]byte, 0, min(limit, 4*len(body)+64)+1)
	for finals := 0; len(p.body) > 0; finals++ { // a final block may be followed by others: section 7.2.3.4
		if finals == maxFinals {
			return nil, errInflate
		}
		_ = z.(flate.Resetter).Reset(p, nil) // never fails
		for {
			if len(out) > limit {
				return nil, errTooBig
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
				return nil, errInflate
			}
		}
	}
	if len(out) > limit {
		return nil, errTooBig
	}
	if p.tail != "" && p.tail != packedTail {
		return nil, errInflate // it ended within its last block
	}
	return out, nil
}

// offersDeflate reports whether a client offers the extension in a way that can
// be accepted. Offers that break section 7.1 are declined, and so are those
// that want a smaller window of the server: Go's compressor has but one, and
// the answer would have to name it.
func offersDeflate(h http.Header) bool {
	offers := splitUnquoted(strings.Join(h.Values("Sec-WebSocket-Extensions"), ","), ',')
	return slices.ContainsFunc(offers, func(offer string) bool {
		params := splitUnquoted(offer, ';')
		return params[0] == "permessage-deflate" && acceptable(params[1:])
	})
}

func acceptable(params []string) bool {
	seen := map[string]bool{}
	for _, param := range params {
		name, value, valued := strings.Cut(param, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if seen[name] {
			return false
		}
		seen[name] = true
		if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
			value = value[1 : n-1]
		}
		switch name {
		case "server_no_context_takeover", "client_no_context_takeover":
			if valued {
				return false
			}
		case "client_max_window_bits": // a hint: the decompressor has the largest window
			bits, err := strconv.Atoi(value)
			if valued && (err != nil || bits < 8 || bits > 15 || strconv.Itoa(bits) != value) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// splitUnquoted splits at a separator that is in no quoted string.
func splitUnquoted(s string, sep byte) (parts []string) {
	quoted, from := false, 0
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == sep && !quoted:
			parts = append(parts, strings.TrimSpace(s[from:i]))
			from = i + 1
		}
	}
	return append(parts, strings.TrimSpace(s[from:]))
}
