package gateway

import (
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
