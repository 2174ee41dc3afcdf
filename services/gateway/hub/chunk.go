package hub

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/services/gateway/memory"
)

// Bounds of a feed's chunks, in bytes. A feed starts with small chunks, so that
// one with a single quiet client costs little. It doubles them while they fill
// faster than chunkTime.
const (
	minChunk  = 2 << 10
	maxChunk  = 64 << 10
	chunkTime = time.Second
)

// A chunk is a piece of a feed: whole frames, ready for the socket. One
// goroutine at a time appends, under the hub's mutex; any number read what is
// published. A chunk that every cursor has left is garbage.
type chunk struct {
	buf   []byte // len is fixed; buf[:n] is published
	n     atomic.Int64
	next  atomic.Pointer[chunk] // set once, when the chunk is full
	made  time.Time
	big   bool   // buf is a frame that other feeds may hold too
	owned uint64 // bytes that the feed had allocated before this chunk
	start Mark   // where the feed was when the chunk was made
}

// A Mark is how far a feed has come in what it shows.
type Mark struct {
	Seq   uint64 // of the last event
	Fresh uint64 // the hub's count of published freshness
}

// A Cursor is a place in a feed. The zero Cursor is nowhere. Its methods may be
// called without the hub's mutex, by one goroutine.
type Cursor struct {
	c   *chunk
	off int
}

// Placed reports whether the cursor is in a feed.
func (cu *Cursor) Placed() bool { return cu.c != nil }

// Owned returns how many bytes the feed had allocated before the cursor's chunk.
func (cu *Cursor) Owned() uint64 {
	if cu.c == nil {
		return math.MaxUint64
	}
	return cu.c.owned
}

// Bytes returns what is published after the cursor in its chunk. At the end of a
// chunk it moves the cursor into the next one. Nil means the end of the feed.
func (cu *Cursor) Bytes() []byte {
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

// Skip moves the cursor by n of the bytes that Bytes returned.
func (cu *Cursor) Skip(n int) { cu.off += n }

// Passed returns the frames of the cursor's chunk up to n bytes after it, and
// where the feed was before them.
func (cu *Cursor) Passed(n int) (frames []byte, start Mark) { return cu.c.buf[:cu.off+n], cu.c.start }

// A frameLog is an append-only log of frames in chunks.
type frameLog struct {
	tail   *chunk
	size   int  // of the next chunk, in bytes
	mark   Mark // of the end
	budget *memory.Budget

	end   atomic.Uint64 // bytes ever appended
	owned atomic.Uint64 // bytes of chunks ever allocated, without big frames
}

func (l *frameLog) init(budget *memory.Budget, mark Mark, now time.Time) {
	l.budget, l.size, l.mark = budget, minChunk, mark
	l.tail = &chunk{buf: make([]byte, minChunk), made: now, start: mark}
}

// append adds a whole frame: an event's if seq is set. A big frame is kept, not
// copied, because many feeds may hold it.
func (l *frameLog) append(frame []byte, seq uint64, now time.Time) {
	t := l.tail
	n := int(t.n.Load())
	switch {
	case len(frame) >= memory.BigFrame:
		l.extend(&chunk{buf: frame, made: now, big: true, owned: l.owned.Load(), start: l.mark})
		t, n = l.tail, 0
	case n+len(frame) > len(t.buf):
		l.resize(now)
		next := &chunk{buf: make([]byte, max(l.size, len(frame))), made: now, owned: l.owned.Load(), start: l.mark}
		l.owned.Add(uint64(len(next.buf)))
		l.budget.Grow(int64(len(next.buf)))
		l.extend(next)
		t, n = next, 0
		fallthrough
	default:
		copy(t.buf[n:], frame)
	}
	l.mark.Seq = max(l.mark.Seq, seq)
	t.n.Store(int64(n + len(frame)))
	l.end.Add(uint64(len(frame)))
}

func (l *frameLog) extend(next *chunk) {
	l.tail.next.Store(next)
	l.tail = next
}

// resize chooses the size of the next chunk by how fast the last one filled.
func (l *frameLog) resize(now time.Time) {
	switch {
	case l.tail.big, l.budget.Tight():
		l.size = minChunk
	case now.Sub(l.tail.made) < chunkTime:
		l.size = min(2*l.size, maxChunk)
	default:
		l.size = max(l.size/2, minChunk)
	}
}

// tip returns the cursor at the end and the bytes before it.
func (l *frameLog) tip() (Cursor, uint64) { return Cursor{l.tail, int(l.tail.n.Load())}, l.end.Load() }
