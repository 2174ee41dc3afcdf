package gateway

import (
	"time"

	"github.com/pollcast/pollcast/services/gateway/conn"
	"github.com/pollcast/pollcast/services/gateway/ws"
)

// A session is a connection with what its client sends. The reader, one goroutine
// for each connection, owns the fields; what is sent to the client is the Conn's.
type session struct {
	*conn.Conn
	subs     subscriptions
	in       ws.Reader
	held     int64 // bytes of in that are charged
	pace     framePace
	wrong    uint8 // frames that were not understood
	hurried  bool  // a message must end within messageWait
	seenWait seenWait

	pinged int64 // the sweep's: when it was pinged last, in unix nanoseconds
}

// subscriptions are the patterns of one connection, in the order they came.
type subscriptions struct {
	patterns []string
	maxHz    float64 // of them all
}

// seenWait is how long a connection's client has waited, without success, for the
// gateway to read what it has seen. The reader's.
type seenWait struct {
	since time.Time // when the first frame came that had to wait; zero: none has
	until time.Time // when the last wait ended
}

// A framePace is when the next frame would be in time, in unix nanoseconds.
type framePace int64

// allow reports whether one more is within perSecond, with a burst of twice as
// many.
func (p *framePace) allow(now time.Time, perSecond int) bool {
	each := int64(time.Second) / int64(perSecond)
	next := max(int64(*p), now.UnixNano())
	if next-now.UnixNano() > each*int64(2*perSecond-1) {
		return false
	}
	*p = framePace(next + each)
	return true
}
