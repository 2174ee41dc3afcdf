package conn

import (
	"fmt"
	"slices"

	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/frame"
	"github.com/pollcast/pollcast/services/gateway/hub"
)

// An out is what is sent to a connection next. One goroutine owns it: the writer
// or, while the socket is full, the connection's drain. Only the owner calls its
// methods.
type out struct {
	c       *Conn
	cur     hub.Cursor
	pos     uint64 // bytes of the feed that cur has passed
	until   uint64 // cur ends here, if bounded
	bounded bool
	private [][]byte  // sent before cur
	partial int       // bytes left of a frame that is partly sent
	ended   bool      // the close frame is in private: nothing follows
	last    uint64    // where the client can resume, if it is closed as slow
	pulling *hub.Pull // set while it is out of its feed (conflate.go)
	// forgotten: it cannot be conflated further and must be closed.
	forgotten bool

	// The writer's, also while drain owns the rest.
	away  bool // drain owns the rest
	group *group
	index int // in group
}

// next returns what to write next, or nil when there is nothing.
func (o *out) next() []byte {
	for {
		if o.partial > 0 {
			if len(o.private) > 0 {
				return o.private[0][:o.partial]
			}
			return o.cur.Bytes()[:o.partial]
		}
		if o.c.mail.attention.Load() {
			o.takeMail()
		}
		if len(o.private) > 0 {
			return o.private[0]
		}
		if o.pulling != nil {
			if o.pullNext(); o.forgotten {
				return nil
			}
			continue
		}
		b := o.cur.Bytes()
		if o.c.mail.attention.Load() {
			// Frames appended after a subscribe belong to the feed it moves to.
			continue
		}
		if o.bounded {
			if b = b[:min(uint64(len(b)), o.until-o.pos)]; len(b) == 0 {
				o.cur, o.bounded = hub.Cursor{}, false
				o.c.mail.attention.Store(true) // the steps behind the end
				continue
			}
		}
		return b
	}
}

// takeMail takes in what was queued for the connection.
func (o *out) takeMail() {
	m := &o.c.mail
	m.attention.Store(false) // what is queued from here on sets it again
	frames, closing, code := m.take()
	if len(frames) > 0 {
		o.private = append(o.private, frames)
	}
	if closing != nil {
		if !o.ended {
			o.cutLoose()
			o.ended = true
			o.private = append(o.private, o.lastFrame(closing, code))
			o.c.owe(len(o.private[len(o.private)-1]))
		}
		return
	}
	for !o.bounded { // first to the end of the feed it is in
		s, ok := m.takeStep()
		if !ok {
			return
		}
		o.step(s)
	}
}

// step takes in one step.
func (o *out) step(s Step) {
	switch {
	case s.Feed != nil:
		o.enter(s.Feed, s.Cur, s.Pos)
	case s.Data != nil:
		o.private = append(o.private, s.Data)
	case o.pulling != nil:
		o.pullUpTo(s.Seq)
	default:
		o.until, o.bounded = s.Until, true
	}
}

// enter makes the connection read a feed.
func (o *out) enter(f *hub.Feed, cur hub.Cursor, pos uint64) {
	o.cur, o.pos = cur, pos
	o.c.reading.Store(nil)
	o.c.sent.Store(pos)
	o.c.reading.Store(f)
}

// advance counts n bytes of b, which next returned, as sent.
func (o *out) advance(b []byte, n int) {
	at := o.partial // frames begin here, and b ends with one
	o.partial = 0
	if n < len(b) {
		for at < n {
			at += frame.Len(o.c.Format, b[at:])
		}
		o.partial = at - n
	}
	if len(o.private) > 0 {
		o.c.paid(n)
		if o.private[0] = o.private[0][n:]; len(o.private[0]) == 0 {
			if o.private = o.private[1:]; len(o.private) == 0 {
				o.private = nil
			}
		}
		return
	}
	o.cur.Skip(n)
	o.pos += uint64(n)
	o.c.sent.Store(o.pos)
}

// finished reports whether the close frame was sent.
func (o *out) finished() bool { return o.ended && len(o.private) == 0 }

// noteOwned publishes where the connection is in what its feed allocated.
func (o *out) noteOwned() {
	if own := o.cur.Owned(); own != o.c.own.Load() {
		o.c.own.Store(own)
	}
}

// cutLoose drops what a closing connection will not be sent any more, so that it
// holds no memory while its client takes the rest of a frame.
func (o *out) cutLoose() {
	dropped := 0
	if len(o.private) == 0 && o.cur.Placed() {
		o.last = o.mark().Seq
		if o.partial > 0 {
			o.private = [][]byte{slices.Clone(o.cur.Bytes()[:o.partial])}
			o.c.owe(o.partial)
		}
	}
	o.cur, o.bounded, o.pulling = hub.Cursor{}, false, nil
	o.c.loose.Store(true)
	if o.c.mail.costly() && !o.ended {
		frames, _, _ := o.c.mail.take()
		dropped = o.dropPrivate() + len(frames)
	}
	o.c.paid(dropped + o.c.mail.dropSteps())
}

// dropPrivate drops the private frames, but for the rest of one that is partly
// sent, and returns how many bytes they had.
func (o *out) dropPrivate() (n int) {
	for _, b := range o.private {
		n += len(b)
	}
	if n -= o.partial; n == 0 {
		return 0
	}
	rest := o.private
	if o.private = nil; o.partial > 0 {
		o.private = [][]byte{slices.Clone(rest[0][:o.partial])}
	}
	return n
}

// lastFrame returns the close frame. For a slow client that was in its feed, it
// has the position from which the client can resume.
func (o *out) lastFrame(closing []byte, code wire.CloseCode) []byte {
	if code == wire.CloseSlowConsumer && o.last > 0 && !o.c.latest.Load() {
		return frame.Close(o.c.Format, code, fmt.Sprintf("%s; resume since seq %d", code, o.last))
	}
	return closing
}

// mark returns how far the client is in its feed, with the frame that is partly
// sent.
func (o *out) mark() hub.Mark {
	partial := o.partial
	if len(o.private) > 0 {
		partial = 0 // that frame is not of the feed
	}
	b, mark := o.cur.Passed(partial)
	for len(b) > 0 {
		n := frame.Len(o.c.Format, b)
		if seq, isEvent := frame.EventSeq(o.c.Format, b[:n]); isEvent {
			mark.Seq = seq
		}
		b = b[n:]
	}
	return mark
}
