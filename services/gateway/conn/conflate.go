package conn

import (
	"slices"

	"github.com/pollcast/pollcast/services/gateway/hub"
)

// A connection with delivery "latest" whose socket is full leaves its feed: it
// keeps only its place (hub.Pull). When its socket takes more, it gets the newest
// event of every topic that changed since, and the freshness that changed since.
// When there is nothing of that, it is back in the feed.

// conflate takes the connection out of its feed.
func (o *out) conflate() {
	if o.pulling != nil || !o.cur.Placed() || o.bounded {
		return
	}
	mark := o.mark()
	if o.partial > 0 && len(o.private) == 0 {
		o.private = append(o.private, slices.Clone(o.cur.Bytes()[:o.partial])) // the rest of that frame
		o.c.owe(o.partial)
	}
	o.pulling = &hub.Pull{Feed: o.c.reading.Load(), Seen: mark}
	o.cur = hub.Cursor{}
	o.c.skipping.Store(true)
	o.c.reading.Store(nil)
	o.c.host.Conflations.Inc()
}

// pullNext takes the next frames of a conflated connection, or puts it back into
// its feed when there are none.
func (o *out) pullNext() {
	var frames []byte
	known, waits := false, false
	o.c.host.Hub.With(func(v *hub.View) {
		if waits = o.c.mail.attention.Load(); waits { // it may have to leave the feed at an earlier place
			return
		}
		f := o.pulling.Feed
		if frames, known = v.Newest(o.pulling, 0); known && len(frames) == 0 {
			o.pulling = nil
			cur, pos := v.Tip(f)
			o.enter(f, cur, pos)
			o.c.skipping.Store(false)
		}
	})
	if !waits {
		o.pulled(frames, known)
	}
}

// pullUpTo takes the frames of a conflated connection up to a position, after
// which it goes to another feed.
func (o *out) pullUpTo(seq uint64) {
	var frames []byte
	known := false
	o.c.host.Hub.With(func(v *hub.View) { frames, known = v.Newest(o.pulling, seq) })
	o.pulling = nil
	o.c.skipping.Store(false)
	o.pulled(frames, known)
}

// pulled queues the frames of a pull. If deletions that the client has not seen
// are no longer known, the connection must be closed.
func (o *out) pulled(frames []byte, known bool) {
	if !known {
		o.pulling = nil
		o.forgotten = true // drain closes it
		return
	}
	if len(frames) > 0 {
		o.private = append(o.private, frames)
		o.c.owe(len(frames))
	}
}
