package wire

import (
	"fmt"
	"strings"
	"time"
)

// CloseCode is a WebSocket close code (RFC 6455, section 7.4). Of the private
// codes, 4000-4499 mean that reconnecting makes sense and 4500-4999 that it does
// not. The table is in proto/wire.md; a test compares the two.
type CloseCode int

// The close codes a gateway sends.
const (
	CloseNormal             CloseCode = 1000
	CloseGoingAway          CloseCode = 1001
	CloseProtocolError      CloseCode = 1002
	CloseInvalidPayload     CloseCode = 1007
	CloseTooBig             CloseCode = 1009
	CloseRestart            CloseCode = 1012
	CloseOverloaded         CloseCode = 1013
	CloseTokenExpired       CloseCode = 4001
	CloseSlowConsumer       CloseCode = 4002
	ClosePingTimeout        CloseCode = 4003
	CloseUnauthorized       CloseCode = 4500
	CloseForbidden          CloseCode = 4501
	CloseBadFrame           CloseCode = 4502
	CloseTooManyConnections CloseCode = 4503
)

// closeTexts are the names in the table and the reasons in close frames.
var closeTexts = map[CloseCode]string{
	CloseNormal:             "normal",
	CloseGoingAway:          "going away",
	CloseProtocolError:      "websocket protocol error",
	CloseInvalidPayload:     "invalid payload",
	CloseTooBig:             "message too big",
	CloseRestart:            "restart",
	CloseOverloaded:         "overloaded",
	CloseTokenExpired:       "token expired",
	CloseSlowConsumer:       "slow consumer",
	ClosePingTimeout:        "ping timeout",
	CloseUnauthorized:       "unauthorized",
	CloseForbidden:          "forbidden",
	CloseBadFrame:           "protocol error",
	CloseTooManyConnections: "too many connections",
}

// String is the code's name in proto/wire.md.
func (c CloseCode) String() string {
	if s, ok := closeTexts[c]; ok {
		return s
	}
	return "unknown"
}

// Reconnect reports whether a client that was closed with this code should
// connect again by itself.
func (c CloseCode) Reconnect() bool {
	switch c {
	case CloseProtocolError, CloseInvalidPayload, CloseTooBig:
		return false
	}
	return c < 4500 || c > 4999
}

// ErrorCode is what was wrong with a client frame.
type ErrorCode string

// The error codes. Only CodeUnavailable and CodeRateLimited are retryable.
const (
	CodeBadFrame     ErrorCode = "bad_frame"     // no JSON object, not exactly one known key, wrong types
	CodeUnknownFrame ErrorCode = "unknown_frame" // an object whose key this gateway does not know
	CodeInvalidTopic ErrorCode = "invalid_topic" // a topic or pattern breaks the rules
	CodeLimit        ErrorCode = "limit"         // more topics than a connection may hold
	CodeInvalid      ErrorCode = "invalid"       // another field has a value that is not allowed
	CodeForbidden    ErrorCode = "forbidden"     // the token does not allow it
	CodeRateLimited  ErrorCode = "rate_limited"  // too many frames
	CodeUnavailable  ErrorCode = "unavailable"   // the gateway cannot serve the request now
)

// Retryable reports whether the same frame may succeed later.
func (c ErrorCode) Retryable() bool { return c == CodeUnavailable || c == CodeRateLimited }

// RetryIn returns the reason of a close frame that asks the client to wait: why,
// and "; retry in <n>s" with whole seconds.
func RetryIn(why string, wait time.Duration) string {
	return fmt.Sprintf("%s%s%ds", why, retryMark, int(wait.Seconds()))
}

const retryMark = "; retry in "

// RetryHint returns how long a close frame's reason asks to wait; 0 if it does
// not.
func RetryHint(reason string) time.Duration {
	_, wait, _ := strings.Cut(reason, retryMark)
	d, err := time.ParseDuration(wait)
	if err != nil || d < 0 {
		return 0
	}
	return d
}
