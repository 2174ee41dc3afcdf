package hub

import (
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
)

// A Record is one record of the stream. One of Event, Fresh and Breaker is set.
type Record struct {
	Seq     uint64
	Stored  time.Time
	Event   *event.Event
	Fresh   *event.Freshness
	Breaker *event.Breaker

	packed []byte // the event's value compressed; nil: it was not
}

// minPacked is the shortest value, in bytes, that is compressed before the hub's
// mutex is taken.
const minPacked = 1 << 10

// Reset begins a stream with another epoch. The clients' positions are of the old
// one, so their connections are ended.
func (h *Hub) Reset(epoch string) {
	first := false
	h.With(func(v *View) {
		first = v.epoch == ""
		v.epoch, v.seq = epoch, 0
		v.clear()
		for _, f := range v.feeds { // they keep their references until these are given back
			f.disconnect()
		}
		clear(v.feeds)
		clear(v.wild)
	})
	if !first {
		h.Log.Warn("the stream was created again; every client must start over", "epoch", epoch)
		h.OnReset()
	}
}

// Snapshot takes in the last records of every topic and poll. seq is the position
// that they stand for.
func (h *Hub) Snapshot(records []Record, seq uint64) {
	h.take(records, seq, true, false)
	topics, polls := 0, 0
	h.With(func(v *View) {
		v.history.restart(seq) // last values only: what was between them is not here
		topics, polls = len(v.topics), len(v.polls)
	})
	h.Log.Info("read the stream", "topics", topics, "polls", polls, "seq", seq)
}

// Append takes in the next records. late reports that they were read back after a
// break. seq is the position after them.
func (h *Hub) Append(records []Record, seq uint64, late bool) { h.take(records, seq, late, true) }

func (h *Hub) take(records []Record, seq uint64, late, ordered bool) {
	now := h.now()
	h.pack(records)
	for short := true; short; {
		h.With(func(v *View) {
			n := v.applyAll(records, now, late, ordered)
			short = ordered && n > 0 && v.Budget.Over()
			if records = records[n:]; !short {
				v.seq = seq
			}
		})
		if short {
			// The intake waits here, but for memory, not for clients: the connections
			// that hold most are closed before there is more to hold.
			h.OnShort()
		}
	}
}

// pack compresses long values, if any feed is compressed.
func (h *Hub) pack(records []Record) {
	if h.compressed.Load() == 0 {
		return
	}
	for i := range records {
		if e := records[i].Event; e != nil && len(e.Data) >= minPacked {
			records[i].packed = h.Encoder.CompressValue(e.Data)
		}
	}
}

// applyAll applies records until the budget is exceeded, and returns how many.
func (v *View) applyAll(records []Record, now time.Time, late, ordered bool) int {
	if !late {
		v.link.lived = now
	}
	for i := range records {
		r := &records[i]
		heard := now
		if age := now.Sub(r.Stored); late && age > 0 {
			heard = now.Add(-age)
		}
		v.apply(r, heard, now)
		if !late {
			v.Metrics.RecordDelay.Observe(max(0, now.Sub(r.Stored).Seconds()))
		}
		if ordered && v.Budget.Over() {
			v.seq = r.Seq // it must be true while the mutex is not held
			records = records[:i+1]
			break
		}
	}
	v.Metrics.Records.Add(float64(len(records)))
	return len(records)
}

func (v *View) apply(r *Record, heard, now time.Time) {
	switch {
	case r.Event != nil:
		v.applyEvent(Event{r.Event, r.Seq}, r.packed, heard, now)
	case r.Fresh != nil:
		p := v.poll(r.Fresh.Poll)
		p.take(r.Fresh, r.Seq, heard)
		v.publishFresh(p, p.fresh(now, v.link.down), now)
	case r.Breaker != nil:
		v.publish(v.source(r.Breaker.Source).feeds, &wire.ServerFrame{Breaker: r.Breaker}, now)
	}
}

func (v *View) applyEvent(e Event, packed []byte, heard, now time.Time) {
	if !v.fits(e.Topic) {
		v.Metrics.TopicsRefused.Inc()
		return
	}
	t, p := v.topic(e.Topic), v.poll(e.Poll)
	p.takeEvent(e, heard)
	if t.last != nil && t.last.Version+1 != e.Version && !e.Deleted { // a deletion removes what was before it
		v.history.restart(e.Seq - 1) // the stream has lost events in between
	}
	v.history.add(e)
	v.setLast(t, p, e, packed)
	v.publishEvent(t, now)
	if e.Deleted {
		v.dropLast(t)
	}
}

// Current notes that NATS, asked after the last record, has no more.
func (h *Hub) Current() { h.With(func(v *View) { v.link.proved = v.link.lived }) }

// Connected notes whether the stream can be read, and why not.
func (h *Hub) Connected(ok bool, why string) {
	changed, known := false, false
	h.With(func(v *View) {
		changed, known = v.link.down == ok, v.epoch != ""
		v.link.down, v.link.why = !ok, why
		v.judgeAll(h.now())
	})
	switch {
	case ok && changed:
		h.Log.Info("the stream can be read")
	case !ok && !known:
		h.Log.Info("waiting for the stream", "why", why)
	case !ok && changed:
		h.Log.Warn("the stream cannot be read; every value is stale now", "why", why)
	case !ok:
		h.Log.Warn("the stream still cannot be read", "why", why)
	}
}
