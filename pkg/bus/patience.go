package bus

import (
	"errors"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
)

// leaveAfter is how long a server may be connected and of no use before another
// one is tried: one that is cut off from its cluster keeps its clients.
const leaveAfter = 10 * time.Second

// Patience is what a service has with the NATS server that it is connected to.
// The zero value is ready. It belongs to one goroutine.
type Patience struct {
	idle time.Time // since when this server has been of no use; zero: it has not
}

// Renew is called when the server is of use, and when the connection is another
// one.
func (p *Patience) Renew() { p.idle = time.Time{} }

// Try is called when the stream cannot be asked at the server for err. It goes to
// another server when there is one and this one has been of no use for 10 s.
func (p *Patience) Try(nc *nats.Conn, log *slog.Logger, err error) {
	switch {
	case !nc.IsConnected() || errors.Is(err, ErrNoStream) || len(nc.Servers()) < 2:
		p.Renew()
	case p.idle.IsZero():
		p.idle = time.Now()
	case time.Since(p.idle) > leaveAfter:
		p.Renew()
		log.Warn("the stream cannot be read at this NATS server; trying another one",
			"url", nc.ConnectedUrlRedacted(), "why", whyText(err))
		_ = nc.ForceReconnect() // it is closed otherwise, and its service about to end
	}
}
