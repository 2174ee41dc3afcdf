package gateway

import (
	"runtime"
	"slices"
	"testing"
)

// What a client makes the gateway do does not grow faster than what it sends,
// in however small pieces it does so: as bytes of one frame, as fragments, or as
// frames that end in the middle of a read.
func TestInboundIsLinear(t *testing.T) {
	const most = 1 << 20
	message := func(size int) [][]byte {
		return slices.Collect(slices.Chunk(clientFrame(fin|txt, make([]byte, size)), 16))
	}
	fragments := func(size int) [][]byte {
		pieces := [][]byte{clientFrame(txt, nil)}
		for range size / 16 {
			pieces = append(pieces, clientFrame(cont, make([]byte, 16)))
		}
		return append(pieces, clientFrame(fin|cont, nil))
	}
	frames := func(size int) [][]byte {
		var all []byte
		for range size / 200 {
			all = append(all, clientFrame(fin|txt, make([]byte, 190))...)
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
			in := inbound{}
			for _, p := range pieces {
				if err := in.feed(slices.Clone(p), most, func(byte, []byte) bool { return true }); err != nil {
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
