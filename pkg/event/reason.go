package event

// Reason says why a value is stale.
type Reason string

// The reasons, in the order of the walk. The poller sets those up to
// NotAdvancing, a gateway the next two, a client the last one.
const (
	UpstreamError   Reason = "upstream_error"   // transport error, 5xx, 408, 429, JSON-RPC server error
	Timeout         Reason = "timeout"          // no whole answer in time
	BadResponse     Reason = "bad_response"     // an answer that breaks the protocol's rules
	RequestRejected Reason = "request_rejected" // the upstream calls the request wrong; never opens the breaker
	BreakerOpen     Reason = "breaker_open"     // not asked: the breaker is open
	NotAdvancing    Reason = "not_advancing"    // answered, but the value does not advance (mustAdvance)
	PollerSilent    Reason = "poller_silent"    // no record for maxAge
	BusDisconnected Reason = "bus_disconnected" // the gateway has lost NATS
	ConnectionLost  Reason = "connection_lost"  // the client has lost its gateway
)

// Reasons lists every reason, in the order above.
var Reasons = []Reason{
	UpstreamError, Timeout, BadResponse, RequestRejected, BreakerOpen,
	NotAdvancing, PollerSilent, BusDisconnected, ConnectionLost,
}
