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

// Error is the gateway's answer to a request that it refused; the connection
// goes on.
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
	return fmt.Sprintf("subscribe to %s: gateway says %s: %s", topics, e.Code, e.Message)
}

// CloseError says with which code the gateway closed the connection. It ends
// the client, and every subscription, when the code is one of those that make
// no sense to come back after (wire.CloseCode.Reconnect); an HTTP status 401 or
// 403 in place of the connection counts as CloseUnauthorized or CloseForbidden.
type CloseError struct {
	Code wire.CloseCode
	// Reason is the gateway's own words; may be empty.
	Reason string
}

func (e *CloseError) Error() string {
	s := fmt.Sprintf("gateway closed the connection: %d %s", int(e.Code), e.Code)
	if e.Reason != "" && e.Reason != e.Code.String() {
		s += ": " + e.Reason
	}
	return s
}

// permanent returns the CloseError in err that makes coming back senseless.
func permanent(err error) *CloseError {
	if ce, ok := errors.AsType[*CloseError](err); ok && !ce.Code.Reconnect() {
		return ce
	}
	return nil
}
