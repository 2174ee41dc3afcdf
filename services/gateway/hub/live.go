package hub

import (
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
)

// liveFrame returns the frame of an event now.
func (v *View) liveFrame(e Event, now time.Time) wire.ServerFrame {
	p := v.poll(e.Poll)
	fr := v.freshOf(e, p.fresh(now, v.link.down), now)
	if !fr.Stale && !p.recent(fr.AsOf, now) { // the poll's record is about later values
		fr.Stale, fr.Reason = true, event.PollerSilent
	}
	return eventFrame(e, v.epoch, wire.Live, fr, now)
}

// freshOf returns how far an event's value can be trusted, given its poll's
// freshness.
func (v *View) freshOf(e Event, fr event.Freshness, now time.Time) event.Freshness {
	if t := v.topics[e.Topic]; t != nil && t.seq == e.Seq {
		return v.poll(e.Poll).eventFresh(e, fr, now)
	}
	fr.AsOf = e.AsOf // a later value was confirmed since, not this one
	return fr
}

// frames holds one frame, encoded at most once for each format, however many
// feeds it goes to.
type frames struct {
	frame  *wire.ServerFrame
	packed []byte // the value compressed; nil: it was not
	bytes  [Formats][]byte
}

// in returns the frame in a format.
func (s *shared) in(fs *frames, fm Format) []byte {
	if b := fs.bytes[fm]; b != nil {
		return b
	}
	var b []byte
	if plain := fm.Plain(); plain == fm {
		b = s.Encoder.Append(nil, fm, fs.frame)
		s.Budget.Share(b)
	} else {
		var value []byte
		if fs.frame.Event != nil {
			value = fs.frame.Event.Data
		}
		whole := s.in(fs, plain)
		if b = s.Encoder.Compress(whole, value, fs.packed); len(b) < len(whole) {
			s.Metrics.Compressed.Inc()
			s.Budget.Share(b)
		}
	}
	fs.bytes[fm] = b
	return b
}
