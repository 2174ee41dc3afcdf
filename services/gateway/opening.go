package gateway

import (
	"sort"
	"sync"
	"time"
)

// openingShare is how long joiners of a feed are given the same snapshot, or
// replay: a storm of reconnecting clients makes one per feed and period, not
// one each.
const openingShare = 100 * time.Millisecond

// An opening is what a subscription begins with: frames, and the place in the
// feed where the live frames after them begin.
type opening struct {
	since uint64 // of a replay: it begins after this position
	seq   uint64
	cur   cursor
	pos   uint64
	made  time.Time
	what  *contents
}

// contents are what openings show. They are encoded once, by the first who
// needs them, however many share them; of a replay some need but the end.
type contents struct {
	collected
	shared bool  // by those who come soon
	size   int64 // about what its frames take, in bytes
	once   sync.Once
	data   []byte
	starts []int // where in data the events' frames begin, and the last one ends
}

func newContents(c collected, shared bool) *contents {
	n := int64(len(c.fresh)) * frameCost
	for i := range c.events {
		n += int64(len(c.events[i].e.Data)) + frameCost
	}
	return &contents{collected: c, shared: shared, size: n}
}

// frames must not be called under the hub's mutex: it may take long.
func (o *opening) frames(fm format) []byte {
	c := o.what
	if !c.shared {
		fm = fm.plain()
	}
	c.once.Do(func() { c.data, c.starts = c.encode(fm, o.made) })
	if o.since == 0 {
		return c.data
	}
	return c.data[c.starts[sort.Search(len(c.events), func(i int) bool { return c.events[i].seq > o.since })]:]
}

// cost is about what its frames take, in bytes.
func (o *opening) cost() int64 { return o.what.size }

// frameCost is about what a frame takes beside the value.
const frameCost = 400

// snapshot opens a feed with the last values of what its patterns match and
// those before did not. With share, joiners of the same moment get the same
// bytes, unless they have seen more: up to seenSeq. The caller holds the mutex.
func (h *hub) snapshot(f *feed, before []string, share bool, seenSeq uint64) opening {
	now := h.now()
	if share && f.snap != nil && now.Sub(f.snap.made) <= openingShare && f.snap.seq >= seenSeq {
		return *f.snap
	}
	o := h.open(f, now)
	o.what = newContents(h.collect(f, before, h.freshness(f), nil), share)
	h.metrics.snapshots.Inc()
	if share {
		f.snap = &o
	}
	return o
}

// open is the place in a feed where what comes from now on begins.
func (h *hub) open(f *feed, now time.Time) opening {
	o := opening{seq: h.seq, made: now}
	o.cur, o.pos = f.tip()
	return o
}
