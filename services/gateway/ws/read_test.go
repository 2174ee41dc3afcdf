package ws

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"testing"

	"github.com/pollcast/pollcast/services/gateway/ws/wstest"
)

// ask returns a JSON message, filled up with spaces to size bytes.
func ask(id, size int) []byte {
	b := fmt.Appendf(nil, `{"id":%d,"ping":{}}`, id)
	return append(b, bytes.Repeat([]byte(" "), max(0, size-len(b)))...)
}

// Where a breach is found does not depend on how the bytes came in.
func FuzzReader(f *testing.F) {
	f.Add(wstest.ClientFrame(wstest.Fin|wstest.Text, ask(1, 300)), uint8(3))
	f.Add(wstest.WideFrame(wstest.Fin|wstest.Text, ask(1, 0), 8), uint8(1))
	f.Add(append(wstest.ClientFrame(wstest.Fin|wstest.Ping, nil), wstest.ClientFrame(wstest.Fin|wstest.Close, []byte{3})...), uint8(7))
	f.Add(slices.Concat(wstest.ClientFrame(wstest.Text, ask(1, 0)[:3]), wstest.ClientFrame(wstest.Fin|wstest.Ping, nil), wstest.ClientFrame(wstest.Fin|wstest.Cont, ask(1, 0)[3:])), uint8(2))
	f.Add(wstest.ClientFrame(wstest.Fin|wstest.RSV1|wstest.Text, wstest.Deflate(ask(1, 3000))), uint8(0x85))
	f.Add(slices.Concat(wstest.ClientFrame(wstest.RSV1|wstest.Text, wstest.Deflate(ask(1, 300))[:7]), wstest.ClientFrame(wstest.Fin|wstest.Cont, wstest.Deflate(ask(1, 300))[7:])), uint8(0x83))
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		deflate := step&0x80 != 0
		step &= 0x7f
		const most = 1 << 10
		hear := func(pieces [][]byte) (heard []string, held int, err error) {
			in := Reader{Deflate: deflate}
			for _, p := range pieces {
				err = in.Feed(bytes.Clone(p), most, func(op byte, body []byte) bool {
					if len(body) > most {
						t.Errorf("%x: a message of %d bytes, with %d at most", b, len(body), most)
					}
					heard = append(heard, fmt.Sprintf("%x %x", op, body))
					return op != CloseFrame
				})
				if err != nil || in.Done() {
					return heard, 0, err
				}
				held = max(held, len(in.part)+len(in.fragments))
			}
			return heard, held, nil
		}
		want, held, wantErr := hear([][]byte{b})
		have, _, err := hear(slices.Collect(slices.Chunk(b, max(1, int(step)))))
		if !slices.Equal(have, want) || fmt.Sprint(err) != fmt.Sprint(wantErr) {
			t.Errorf("%x: in one piece %q, then %v; in pieces of %d: %q, then %v", b, want, wantErr, step, have, err)
		}
		if held > 2*most+14 {
			t.Errorf("%x: %d bytes are held, with messages of %d at most", b, held, most)
		}
	})
}

// The work that a client causes does not grow faster than what it sends,
// in however small pieces it does so: as bytes of one frame, as fragments, or as
// frames that end in the middle of a read.
func TestReaderIsLinear(t *testing.T) {
	const most = 1 << 20
	message := func(size int) [][]byte {
		return slices.Collect(slices.Chunk(wstest.ClientFrame(wstest.Fin|wstest.Text, make([]byte, size)), 16))
	}
	fragments := func(size int) [][]byte {
		pieces := [][]byte{wstest.ClientFrame(wstest.Text, nil)}
		for range size / 16 {
			pieces = append(pieces, wstest.ClientFrame(wstest.Cont, make([]byte, 16)))
		}
		return append(pieces, wstest.ClientFrame(wstest.Fin|wstest.Cont, nil))
	}
	frames := func(size int) [][]byte {
		var all []byte
		for range size / 200 {
			all = append(all, wstest.ClientFrame(wstest.Fin|wstest.Text, make([]byte, 190))...)
		}
		return slices.Collect(slices.Chunk(all, 64))
	}
	for _, tt := range []struct {
		name string
		make func(size int) [][]byte
	}{{"one frame", message}, {"fragments", fragments}, {"frames", frames}} {
		// moved is how many bytes were allocated while a client sent so many.
		moved := func(size int) uint64 {
			pieces := tt.make(size)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			in := Reader{}
			for _, p := range pieces {
				if err := in.Feed(slices.Clone(p), most, func(byte, []byte) bool { return true }); err != nil {
					t.Fatal(err)
				}
			}
			runtime.ReadMemStats(&after)
			return after.TotalAlloc - before.TotalAlloc
		}
		if little, much := moved(16<<10), moved(256<<10); much > 2*16*little {
			t.Errorf("%s: 16 times as many bytes take %.1f times the memory", tt.name, float64(much)/float64(little))
		}
	}
}

// A message of some KB that would become 32 MiB allocates no more than a message
// of the size limit.
func TestBombMemory(t *testing.T) {
	const limit = 64 << 10
	bomb := wstest.Deflate(ask(7, 32<<20))
	if res := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Inflate(bomb, limit); err != ErrTooBig {
				b.Fatal(err)
			}
		}
	}); res.AllocedBytesPerOp() > 3*limit {
		t.Errorf("%d bytes for a bomb of %d, want %d at most", res.AllocedBytesPerOp(), len(bomb), 3*limit)
	}
}
