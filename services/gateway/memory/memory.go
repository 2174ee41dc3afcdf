// Package memory counts what a gateway's memory is used for and decides, by one
// number, whether there is room for more. It frees nothing: the gateway counts
// everything at each sweep (Recount) and closes connections when Over.
//
//	hub, connections ─ Grow, Share, Pass ─► Budget ◄─ Recount ─ sweep
//	                                          └─ Kick ─► an early sweep
package memory

import (
	"runtime"
	"sync/atomic"
)

// The costs, in bytes, of things that are not counted byte by byte: a little more
// than was measured, so that the budget holds.
const (
	ProcessCost    = 24 << 20 // the process without clients and values: code, runtime, NATS's buffers
	ConnectionCost = 7 << 10  // its goroutine, buffers and bookkeeping; 6.0 to 6.4 KB were measured
	SocketCost     = 20 << 10 // a socket whose request is not answered yet
	TopicCost      = 1 << 10  // a topic, beside its value
	FeedCost       = 1 << 10  // a feed, beside its frames
	LinkCost       = 128      // a topic in a feed
	EventCost      = 512      // an event in the history, beside its value
	FrameCost      = 400      // a frame, beside its value
)

// BigFrame is the length, in bytes, from which a frame is shared by the feeds
// that hold it, and not copied into each.
const BigFrame = 4 << 10

// Parts of the budget, in percent. Above refuseAt no new client is admitted;
// above evictAt connections are closed until EvictTo is reached. The rest is for
// garbage that has not been collected yet.
const (
	refuseAt = 75
	evictAt  = 85
	EvictTo  = 70
)

// A Budget is the one bound of a gateway's memory. It may be used by several
// goroutines.
type Budget struct {
	limit   int64
	counted atomic.Int64  // by the last Recount
	grown   atomic.Int64  // since the last Recount
	passing atomic.Int64  // answers being made
	shared  atomic.Int64  // big frames, until they are collected
	kick    chan struct{} // has a value when an early Recount is wanted
}

// New returns a budget of limit bytes.
func New(limit int64) *Budget { return &Budget{limit: limit, kick: make(chan struct{}, 1)} }

// Limit returns the bytes of the whole budget.
func (b *Budget) Limit() int64 { return b.limit }

// Used returns the bytes in use.
func (b *Budget) Used() int64 {
	return b.counted.Load() + b.grown.Load() + b.passing.Load() + b.shared.Load()
}

// Passing returns the bytes that Pass and Hold have taken.
func (b *Budget) Passing() int64 { return b.passing.Load() }

// Shared returns the bytes of big frames.
func (b *Budget) Shared() int64 { return b.shared.Load() }

// Part returns a part of the budget, in bytes.
func (b *Budget) Part(percent int) int64 { return b.limit / 100 * int64(percent) }

// Over reports whether connections must be closed.
func (b *Budget) Over() bool { return b.Used() > b.Part(evictAt) }

// Tight reports whether no memory should be taken that is not needed.
func (b *Budget) Tight() bool { return b.Used() > b.Part(refuseAt) }

// Room reports whether there is room for n bytes more of something that can be
// refused.
func (b *Budget) Room(n int64) bool { return b.Used()+n <= b.Part(refuseAt) }

// Grow counts bytes that were taken since the last Recount. If that is too much,
// Kick gets a value.
func (b *Budget) Grow(n int64) {
	b.grown.Add(n)
	if b.Over() {
		select {
		case b.kick <- struct{}{}:
		default:
		}
	}
}

// Kick has a value when the budget was exceeded since the last one.
func (b *Budget) Kick() <-chan struct{} { return b.kick }

// Pass takes n bytes for an answer, until the caller calls done. It returns nil
// when there is no room.
func (b *Budget) Pass(n int64) (done func()) {
	if !b.Room(n) {
		return nil
	}
	b.passing.Add(n)
	return func() { b.passing.Add(-n) }
}

// Hold takes n bytes without a check, or gives them back if n is negative.
func (b *Budget) Hold(n int64) { b.passing.Add(n) }

// Share counts a frame of BigFrame or more until nobody holds it any more.
func (b *Budget) Share(frame []byte) {
	if len(frame) < BigFrame {
		return
	}
	n := int64(cap(frame))
	b.shared.Add(n)
	runtime.AddCleanup(&frame[0], func(n int64) { b.shared.Add(-n) }, n)
	b.Grow(0)
}

// Recount replaces what was counted since the last Recount by the sum that count
// returns.
func (b *Budget) Recount(count func() int64) {
	grown := b.grown.Load()
	b.counted.Store(count())
	b.grown.Add(-grown)
}

// Less returns a - b, or 0 if b is more.
func Less(a, b uint64) uint64 {
	if a > b {
		return a - b
	}
	return 0
}
