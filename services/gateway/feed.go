package gateway

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
)

// Bounds of a feed's chunks, in bytes. A feed starts with small chunks, so that
// one with a single quiet client costs little, and doubles them while they
// fill faster than chunkTime.
const (
	minChunk  = 2 << 10
	maxChunk  = 64 << 10
	chunkTime = time.Second
	// bigFrame is what is worth a chunk of its own rather than a copy.
	bigFrame = 4 << 10
)

// A chunk is a piece of a feed: whole frames, ready for the socket. One
// goroutine at a time appends (under the hub's mutex), any number read what is
// published. A chunk that every cursor has left is garbage by itself.
type chunk struct {
	buf  []byte // len is fixed; buf[:n] is published
	n    atomic.Int64
	next atomic.Pointer[chunk] // set once, when the chunk is full for good
	made time.Time
	big  bool // buf is a frame that others may hold too
	// owned is how much the feed had allocated before this chunk.
	owned uint64
	// Where the feed stood when the chunk was made: the last event's sequence
	// number, and the hub's count of freshness told.
	seq, told uint64
}

func newChunk(size int, now time.Time, seq, told uint64) *chunk {
	return &chunk{buf: make([]byte, size), made: now, seq: seq, told: told}
}

// A cursor is a place in a feed. The zero cursor is nowhere.
type cursor struct {
	c   *chunk
	off int
}

// owned is where the cursor stands in what its feed allocated.
func (cu *cursor) owned() uint64 {
	if cu.c == nil {
		return math.MaxUint64
	}
	return cu.c.owned
}

// bytes returns what is published after the cursor in its chunk, moving it
// into the next chunk where its own is used up. Nil means the end.
func (cu *cursor) bytes() []byte {
	for cu.c != nil {
		if n := int(cu.c.n.Load()); cu.off < n {
			return cu.c.buf[cu.off:n]
		}
		next := cu.c.next.Load()
		if next == nil {
			return nil
		}
		if cu.off < int(cu.c.n.Load()) {
			continue // appended between the two loads
		}
		cu.c, cu.off = next, 0
	}
	return nil
}

// A feed is everything that the connections with one set of patterns, one
// format and one rate receive:
// an event costs one append here, however many connections read it.
type feed struct {
	key      string
	patterns []string
	format   format

	// Guarded by the hub's mutex.
	conns  int // references
	topics map[*topicState]struct{}
	polls  map[*pollState]struct{}
	srcs   map[*sourceState]struct{}
	tail   *chunk
	size   int
	snap   *opening // that joiners share
	past   *opening // the same of a replay
	far    uint64   // who has seen less is owed more than is replayed
	era    int      // of the history, then
	named  int64    // bytes of the key and the patterns
	budget *budget
	seq    uint64 // of the last event
	told   uint64 // the hub's count at the last freshness
	pace   *pacer // nil: every event at once

	// end counts the bytes ever appended: a connection's lag is a subtraction.
	end atomic.Uint64
	// owned counts the bytes of chunks ever allocated, without big frames.
	owned  atomic.Uint64
	groups []*group // one per writer; fixed when the feed is made
}

func newFeed(key string, patterns []string, fm format, seq, told uint64, now time.Time) *feed {
	return &feed{
		key: key, patterns: patterns, format: fm, size: minChunk, seq: seq, told: told, tail: newChunk(minChunk, now, seq, told),
		topics: map[*topicState]struct{}{}, polls: map[*pollState]struct{}{}, srcs: map[*sourceState]struct{}{},
	}
}

// append adds a whole frame: an event's if seq is set. One of bigFrame or more
// is kept, not copied, since many feeds may hold it. The caller holds the
// hub's mutex.
func (f *feed) append(frame []byte, seq uint64, now time.Time) {
	f.dropOpenings(now) // they would keep every later chunk alive
	t := f.tail
	n := int(t.n.Load())
	if len(frame) >= bigFrame {
		next := &chunk{buf: frame, made: now, big: true, owned: f.owned.Load(), seq: f.seq, told: f.told}
		next.n.Store(int64(len(frame)))
		f.seq = max(f.seq, seq)
		t.next.Store(next)
		f.tail = next
		f.grown(len(frame))
		return
	}
	if n+len(frame) > len(t.buf) {
		switch {
		case t.big:
			f.size = minChunk // as much as comes between big frames
		case f.budget.tight():
			f.size = minChunk
		case now.Sub(t.made) < chunkTime:
			f.size = min(2*f.size, maxChunk)
		default:
			f.size = max(f.size/2, minChunk)
		}
		next := newChunk(max(f.size, len(frame)), now, f.seq, f.told)
		next.owned = f.owned.Load()
		f.owned.Add(uint64(len(next.buf)))
		f.budget.grow(int64(len(next.buf)))
		t.next.Store(next)
		f.tail, t, n = next, next, 0
	}
	f.seq = max(f.seq, seq)
	copy(t.buf[n:], frame)
	t.n.Store(int64(n + len(frame)))
	f.grown(len(frame))
}

// grown has the feed's connections sent n bytes more.
func (f *feed) grown(n int) {
	f.end.Add(uint64(n))
	for _, g := range f.groups {
		g.wake()
	}
}

// dropOpenings lets go of what is too old to be shared.
func (f *feed) dropOpenings(now time.Time) {
	if f.snap != nil && now.Sub(f.snap.made) > openingShare {
		f.snap = nil
	}
	if f.past != nil && now.Sub(f.past.made) > openingShare {
		f.past = nil
	}
}

// tip is the cursor at the feed's end. The caller holds the hub's mutex.
func (f *feed) tip() (cursor, uint64) {
	return cursor{f.tail, int(f.tail.n.Load())}, f.end.Load()
}

// heldFresh returns a poll's freshness that the pacer holds back.
func (f *feed) heldFresh(p *pollState) (fr event.Freshness, held bool) {
	if f.pace != nil {
		fr, held = f.pace.polls[p]
	}
	return fr, held
}
