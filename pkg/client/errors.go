package client

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pollcast/pollcast/pkg/wire"
)

// ErrClosed is returned by Subscribe on a client that was closed.
var ErrClosed = errors.New("client is closed")

// ErrTooManyTopics ends a subscription that matched more topics or polls than
// Options.MaxTopics.
var ErrTooManyTopics = errors.New("subscription matches more topics than the client may hold")

// Error is the gateway's answer to a request that it refused. The connection
// stays open.
type Error struct {
	// Topics are those of the refused request.
	Topics  []string
	Code    wire.ErrorCode
	Message string
}

func (e *Error) Error() string {
	topics := strings.Join(e.Topics, ",")
	if len(topics) > 80 {
		topics = topics[:80] + "…"
	}
	return fmt.Sprintf("subscribe to %s: gateway answers %s: %s", topics, e.Code, e.Message)
}

// CloseError is the code with which the gateway closed the connection. It ends
// the client and every subscription when reconnecting makes no sense after the
// code (wire.CloseCode.Reconnect). An HTTP status 401 or 403 in place of the
// connection counts as CloseUnauthorized or CloseForbidden.
type CloseError struct {
	Code wire.CloseCode
	// Reason is the gateway's text; it may be empty.
	Reason string
}

func (e *CloseError) Error() string {
	s := fmt.Sprintf("gateway closed the connection: %d %s", int(e.Code), e.Code)
	if e.Reason != "" && e.Reason != e.Code.String() {
		s += ": " + e.Reason
	}
	return s
}

// permanent returns the CloseError in err after which reconnecting makes no
// sense, or nil.
func permanent(err error) *CloseError {
	if ce, ok := errors.AsType[*CloseError](err); ok && !ce.Code.Reconnect() {
		return ce
	}
	return nil
}
