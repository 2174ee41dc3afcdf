package ws

import (
	"bytes"
	"compress/flate"
	"math"
	"sync"
)

// permessage-deflate without context takeover in either direction: one
// compressed frame is for any number of clients, and an idle client holds no
// window.

const (
	// minDeflate is the shortest payload worth compressing, in bytes.
	minDeflate = 128
	// maxKept is the longest buffer that is kept for the next frame.
	maxKept = 64 << 10
)

var deflaters = sync.Pool{New: func() any {
	d := new(deflater)
	d.z, _ = flate.NewWriter(d, flate.BestSpeed) // fails for unknown levels only
	return d
}}

// A deflater compresses one piece after another into out.
type deflater struct {
	z   *flate.Writer
	out []byte
}

// Write implements io.Writer, for z.
func (d *deflater) Write(b []byte) (int, error) {
	d.out = append(d.out, b...)
	return len(b), nil
}

// add compresses a piece, up to and including the 00 00 ff ff of a flush.
func (d *deflater) add(piece []byte) {
	d.z.Reset(d)
	_, _ = d.z.Write(piece) // d takes everything
	_ = d.z.Flush()
}

func (d *deflater) release() {
	if d.out = d.out[:0]; cap(d.out) > maxKept {
		d.out = nil
	}
	deflaters.Put(d)
}

// Compress returns a server's frame compressed (RFC 7692, section 7.2.1), or the
// frame itself if compression does not make it shorter.
func Compress(frame []byte) []byte { return CompressAround(frame, nil, nil, math.MaxInt) }

// CompressAround is Compress for a frame that holds a value, of which packed is
// the result of CompressValue; packed may be nil. packed is used as it is, and
// only the bytes before and after the value are compressed: DEFLATE blocks that
// end at a byte and refer to nothing before them can be put together. If more
// than max bytes were to be compressed, CompressAround returns the frame itself.
//
// This stays because a long value is what compression is for, and it must not be
// compressed under the hub's mutex, nor again for each frame that holds it.
func CompressAround(frame, value, packed []byte, max int) []byte {
	payload := Payload(frame)
	if len(payload) < minDeflate {
		return frame
	}
	d := deflaters.Get().(*deflater)
	defer d.release()
	rest := payload
	if len(packed) > 0 {
		// Search the head of the value only: nothing before the value is as long.
		at := bytes.Index(payload, value[:min(len(value), 64)])
		if at >= 0 && bytes.HasPrefix(payload[at:], value) {
			d.add(payload[:at])
			d.out = append(d.out, packed...)
			rest = payload[at+len(value):]
		}
	}
	if len(rest) > max {
		return frame
	}
	d.add(rest)
	body := d.out[:len(d.out)-4] // without 00 00 ff ff
	if len(body) >= len(payload) {
		return frame
	}
	return append(AppendHeader(make([]byte, 0, MaxHeader+len(body)), frame[0]|Compressed, len(body)), body...)
}

// CompressValue compresses a value for Compress. It returns nil if that does not
// make the value shorter.
func CompressValue(value []byte) []byte {
	d := deflaters.Get().(*deflater)
	defer d.release()
	d.add(value)
	if len(d.out) >= len(value) {
		return nil
	}
	return bytes.Clone(d.out)
}
