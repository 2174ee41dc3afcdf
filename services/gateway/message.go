package gateway

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// messageWait is how long a client may take for one message, from its first
// frame's header to its last byte. Before the header is whole, a missing answer
// to a ping ends the connection.
const messageWait = 10 * time.Second

// errUnfinished says that a client began a message and did not end it.
var errUnfinished = errors.New("unfinished message")

// message reads one message of the client. It must end within messageWait of
// its first frame, or a client that sends a byte a second would hold the buffer
// for as long as it likes.
func (c *conn) message() (kind int, body []byte, err error) {
	kind, r, err := c.ws.NextReader()
	if err != nil {
		return kind, nil, err
	}
	c.readBy(time.Now().Add(messageWait))
	held := int64(0)
	defer func() { c.extra.Add(-held) }()
	body = make([]byte, 0, 512)
	for {
		n, err := r.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case err == io.EOF:
			c.readBy(time.Time{})
			return kind, body, nil
		case isTimeout(err) && c.closed.Load() == 0:
			return kind, nil, fmt.Errorf("%w: %d bytes within %v", errUnfinished, len(body), messageWait)
		case err != nil:
			return kind, nil, err
		}
		if len(body) == cap(body) {
			body = append(make([]byte, 0, 2*cap(body)), body...)
			more := int64(cap(body)) - held
			held += more
			c.extra.Add(more)
			c.gw.budget.grow(more)
		}
	}
}

// isTimeout also knows the library's own error, which hides the cause.
func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// readBy sets until when the client's next bytes must come. Closing has a
// deadline of its own.
func (c *conn) readBy(t time.Time) {
	if c.closed.Load() == 0 {
		_ = c.nc.SetReadDeadline(t) // a dead socket shows in Read
	}
}
