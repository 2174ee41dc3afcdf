package poller

import (
	"cmp"
	"time"
)

// The stream has a bound (nats.maxBytes). When it is full its oldest messages go,
// and those are the values that have not changed for longest, of which a new
// reader would then know the freshness and nothing else. Their pollers know them.

const (
	// droppedEvery is how often a poller looks what the stream has dropped.
	droppedEvery = 10 * time.Second
	// againAfter is how long after values of a poll were stored again this may be
	// done anew: a stream that cannot hold all values is not written round and
	// round.
	againAfter = 10 * time.Minute
	// droppedSaid is how often it is said at most.
	droppedSaid = 5 * time.Minute
)

// dropped finds what the stream has dropped. It belongs to one goroutine.
type dropped struct {
	looked, said time.Time
	values       int // stored again and not said
}

// look has the polls store again what lies before the stream's first message.
func (d *dropped) look(p *Poller, first uint64) {
	now := time.Now()
	if now.Sub(d.looked) < cmp.Or(p.lookEvery, droppedEvery) {
		return
	}
	d.looked = now
	for _, s := range p.list() {
		if !s.Owned() {
			continue
		}
		for _, poll := range s.runner.Load().polls {
			d.values += poll.storeAgain(first, now)
		}
	}
	if d.values > 0 && now.Sub(d.said) >= droppedSaid {
		p.log.Warn("the stream is full and has dropped values that do not change; they are stored again. Raise nats.maxBytes", "values", d.values)
		d.said, d.values = now, 0
	}
}

// storeAgain makes the poll say again what the stream dropped, and returns how
// many values that are.
func (p *poll) storeAgain(first uint64, now time.Time) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// What is under way brings its own idea of what is stored. A walk's positions
	// are its history, and go.
	if p.putting || p.follow != nil || now.Sub(p.againAt) < againAfter {
		return 0
	}
	if p.stored.drop(first) {
		n++
	}
	for _, k := range p.keys {
		if !k.gone && k.held.drop(first) {
			n++
		}
	}
	if n > 0 {
		p.againAt = now
		p.wake()
	}
	return n
}

// drop notes that the stream holds nothing before first. It returns true if it
// held the event.
func (h *held) drop(first uint64) bool {
	if !h.has || h.seq == 0 || h.seq >= first {
		return false
	}
	h.has = false
	return true
}
