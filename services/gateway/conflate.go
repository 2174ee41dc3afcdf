package gateway

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/pkg/wire/wirepb"
	"github.com/pollcast/pollcast/services/gateway/ws"
	"google.golang.org/protobuf/proto"
)

// A connection with delivery "latest" whose socket is full leaves its feed: it
// keeps only the position it has seen (so it holds no memory however long it
// stays behind), and when its socket takes more it is given the newest event of
// every topic that changed since, and the freshness that changed since. When
// there is nothing such, it is back in the feed.
//
// Skipped events show as jumps of a topic's version. Freshness is never
// skipped for good: the newest of each poll is always sent, after its events.
type pull struct {
	feed *feed
	seen uint64 // events up to here were sent or are out of date
	told uint64 // freshness up to here was sent
}

// conflate takes a connection out of its feed. Owner's.
func (c *conn) conflate() {
	if c.pulling != nil || c.cur.c == nil || c.bounded {
		return
	}
	seen, told := c.cur.c.seq, c.cur.c.told
	b := c.cur.c.buf
	for at := 0; at < c.cur.off; { // what was sent of this chunk, with the frame under way
		n := c.format.frameLen(b[at:])
		if seq, isEvent := eventSeq(c.format, b[at:at+n]); isEvent {
			seen = seq
		}
		at += n
	}
	if c.mid > 0 && len(c.priv) == 0 {
		c.priv = append(c.priv, slices.Clone(c.cur.bytes()[:c.mid])) // the rest of that frame
		c.owe(c.mid)
	}
	c.pulling = &pull{feed: c.reading.Load(), seen: seen, told: told}
	c.cur = cursor{}
	c.skipping.Store(true)
	c.reading.Store(nil)
	c.gw.metrics.conflations.Inc()
}

// eventSeq returns the sequence number of a frame that holds an event.
func eventSeq(fm format, frame []byte) (uint64, bool) {
	if fm == asSSE {
		return sseSeq(frame)
	}
	payload := ws.Payload(frame)
	if frame[0]&ws.Compressed != 0 {
		var err error
		if payload, err = ws.Inflate(payload, math.MaxInt32); err != nil {
			panic(fmt.Sprintf("gateway: %v", err)) // it was compressed here
		}
	}
	if fm.plain() == asProto {
		var f wirepb.ServerFrame
		if proto.Unmarshal(payload, &f) != nil || f.GetEvent() == nil {
			return 0, false
		}
		return f.GetEvent().Seq, true
	}
	var f struct {
		Event *struct {
			Seq uint64 `json:"seq"`
		} `json:"event"`
	}
	if json.Unmarshal(payload, &f) != nil || f.Event == nil {
		return 0, false
	}
	return f.Event.Seq, true
}

// newest returns the frames of what changed after a pull's position up to
// and including to (0: up to now), and moves the position. ok is false when
// deletions in between are no longer known. The caller holds the mutex.
func (h *hub) newest(p *pull, to uint64) (frames []byte, ok bool) {
	now := h.now()
	if to == 0 {
		to = h.seq
	}
	if p.feed.pace != nil {
		to = min(to, p.feed.pace.seq) // what is later is held
	}
	type item struct {
		seq   uint64
		frame wire.ServerFrame
	}
	var items []item
	add := func(e past) {
		if e.seq > p.seen && e.seq <= to {
			items = append(items, item{e.seq, h.liveFrame(e, now)})
		}
	}
	if pace := p.feed.pace; pace != nil {
		for _, e := range pace.sent {
			add(e)
		}
	} else {
		for t := range p.feed.topics {
			if t.last != nil {
				add(past{t.last, t.seq})
			}
		}
	}
	if to > p.seen {
		if p.seen < h.history.from {
			return nil, false
		}
		for _, d := range after(h.history.deleted, p.seen) {
			if t := h.topics[d.e.Topic]; d.seq <= to && (t == nil || t.last == nil) && matchAny(p.feed.patterns, d.e.Topic) {
				items = append(items, item{d.seq, h.liveFrame(d, now)})
			}
		}
	}
	slices.SortFunc(items, func(a, b item) int {
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	for i := range items {
		frames = appendFrame(frames, p.feed.format.plain(), &items[i].frame)
	}
	for poll := range p.feed.polls {
		if _, held := p.feed.heldFresh(poll); !held && poll.toldAt > p.told {
			frames = appendFrame(frames, p.feed.format.plain(), &wire.ServerFrame{Fresh: &poll.told})
		}
	}
	p.seen, p.told = max(p.seen, to), h.told
	return frames, true
}

// pullNext gives a conflated connection its next frames, or puts it back into
// its feed when there are none. Owner's.
func (c *conn) pullNext() {
	h := c.gw.hub
	h.mu.Lock()
	if c.attention.Load() { // it may have to leave the feed at an earlier place
		h.mu.Unlock()
		return
	}
	p := c.pulling
	frames, ok := h.newest(p, 0)
	if ok && len(frames) == 0 {
		c.pulling = nil
		c.cur, c.pos = p.feed.tip()
		c.sent.Store(c.pos)
		c.reading.Store(p.feed)
		c.skipping.Store(false)
	}
	h.mu.Unlock()
	c.pulled(frames, ok)
}

// pullUpTo gives a conflated connection its frames up to a position, after
// which it goes to another feed. Owner's.
func (c *conn) pullUpTo(seq uint64) {
	h := c.gw.hub
	h.mu.Lock()
	frames, ok := h.newest(c.pulling, seq)
	h.mu.Unlock()
	c.pulling = nil
	c.skipping.Store(false)
	c.pulled(frames, ok)
}

func (c *conn) pulled(frames []byte, ok bool) {
	if !ok {
		c.pulling = nil
		c.forgotten = true // drain closes it: deletions it has not seen are no longer known
		return
	}
	if len(frames) > 0 {
		c.priv = append(c.priv, frames)
		c.owe(len(frames))
	}
}
