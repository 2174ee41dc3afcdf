package wire

import (
	"encoding/json"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
)

// ClientFrame is a frame from a client to a gateway: an id and exactly one of
// the other fields.
type ClientFrame struct {
	ID           uint64        `json:"id,omitempty"`
	Subscribe    *Subscribe    `json:"subscribe,omitempty"`
	Unsubscribe  *Unsubscribe  `json:"unsubscribe,omitempty"`
	Ping         *Ping         `json:"ping,omitempty"`
	Authenticate *Authenticate `json:"authenticate,omitempty"`
}

// Subscribe adds topics to what the connection receives.
type Subscribe struct {
	// Topics are topics or patterns.
	Topics []string `json:"topics"`
	// Delivery is DeliverAll (also when empty) or DeliverLatest.
	Delivery string `json:"delivery,omitempty"`
	// MaxHz is the most frames per second and topic; 0 means no limit.
	MaxHz float64 `json:"maxHz,omitempty"`
	// Replay is "latest" (also when empty): a snapshot, then live.
	Replay string `json:"replay,omitempty"`
	// Since asks for the events after a position instead of a snapshot.
	Since *Since `json:"since,omitempty"`
	// NotOlderThan is the position that the client has seen. A gateway that is
	// behind it answers with CodeUnavailable and not with an older state of the
	// stream. A position of another epoch means nothing.
	NotOlderThan *Since `json:"notOlderThan,omitempty"`
}

// Values of Subscribe.Delivery.
const (
	DeliverAll    = "all"
	DeliverLatest = "latest"
)

// Since is a position in the stream.
type Since struct {
	Seq   uint64 `json:"seq"`
	Epoch string `json:"epoch"`
}

// Unsubscribe removes topics or patterns, written as they were subscribed.
type Unsubscribe struct {
	Topics []string `json:"topics"`
}

// Ping asks for a Pong.
type Ping struct{}

// Authenticate replaces the connection's token.
type Authenticate struct {
	Token string `json:"token"`
}

// ServerFrame is a frame from a gateway to a client: exactly one of the fields
// other than ID is set.
type ServerFrame struct {
	// ID is that of the client frame which this frame answers; 0: none.
	ID            uint64           `json:"id,omitempty"`
	Welcome       *Welcome         `json:"welcome,omitempty"`
	Subscribed    *Subscribed      `json:"subscribed,omitempty"`
	Unsubscribed  *Unsubscribed    `json:"unsubscribed,omitempty"`
	Pong          *Pong            `json:"pong,omitempty"`
	Authenticated *Authenticated   `json:"authenticated,omitempty"`
	Event         *Event           `json:"event,omitempty"`
	Fresh         *event.Freshness `json:"fresh,omitempty"`
	Breaker       *event.Breaker   `json:"breaker,omitempty"`
	Error         *Error           `json:"error,omitempty"`
	GoAway        *GoAway          `json:"goaway,omitempty"`
}

// Welcome is the first frame on every connection.
type Welcome struct {
	Connection     string `json:"connection"`
	Gateway        string `json:"gateway"`
	Epoch          string `json:"epoch"`
	PingIntervalMs int64  `json:"pingIntervalMs"`
}

// Subscribed answers Subscribe; the snapshot or the replay follows, then live
// frames.
type Subscribed struct {
	Topics []string `json:"topics"`
	// Seq is the stream position at which live frames begin.
	Seq   uint64 `json:"seq"`
	Epoch string `json:"epoch"`
	// Resumed is set if Since was given and everything after it follows.
	Resumed bool `json:"resumed"`
	// Reason is why it was not resumed although Since was given.
	Reason string `json:"reason"`
}

// Values of Subscribed.Reason.
const (
	NotResumedTrimmed = "trimmed" // the history does not reach back to Since
	NotResumedEpoch   = "epoch"   // Since belongs to another incarnation of the stream
	NotResumedTooFar  = "too_far" // more is missing than a gateway replays
)

// Unsubscribed answers Unsubscribe: no frame of the topics follows.
type Unsubscribed struct {
	Topics []string `json:"topics"`
}

// Pong answers Ping.
type Pong struct{}

// Authenticated answers Authenticate.
type Authenticated struct {
	ExpiresAt time.Time `json:"expiresAt,omitzero"`
}

// Phase is why an event was sent.
type Phase string

// The phases of an event, in the order a subscription sees them.
const (
	Snapshot Phase = "snapshot"
	Replay   Phase = "replay"
	Live     Phase = "live"
)

// Event is a topic's value with its freshness.
type Event struct {
	Topic string `json:"topic"`
	// Seq is the stream's sequence number.
	Seq uint64 `json:"seq"`
	// Version counts the topic's events by 1: a gap is a subtraction.
	Version uint64 `json:"version"`
	Phase   Phase  `json:"phase"`
	// ChangedAt is when a poll first saw this value.
	ChangedAt time.Time `json:"changedAt"`
	// AsOf is when the request was sent that last confirmed it.
	AsOf time.Time `json:"asOf"`
	// AgeMs is the value's age when the frame was made, in milliseconds.
	AgeMs   int64        `json:"ageMs"`
	Stale   bool         `json:"stale"`
	Reason  event.Reason `json:"reason"`
	Breaker event.State  `json:"breaker"`
	Deleted bool         `json:"deleted,omitempty"`
	Key     string       `json:"key,omitempty"`
	// Poll is the poll whose freshness is valid for this topic.
	Poll     string `json:"poll"`
	Upstream string `json:"upstream,omitempty"`
	// Position is the place in the sequence that the poll walks (follow); nil
	// when it walks none.
	Position *int64 `json:"position,omitempty"`
	// Reorganised is set if the events for the positions after Position are not
	// valid any more. Data is an event.Reorganisation.
	Reorganised bool            `json:"reorganised,omitempty"`
	Data        json.RawMessage `json:"data,omitempty"`
	// Epoch is the stream's incarnation that Seq belongs to. Frames carry it in
	// subscribed; only SSE repeats it, in every event's id.
	Epoch string `json:"-"`
}

// Error is what was wrong with the client frame of this id, or with the
// connection.
type Error struct {
	Code    ErrorCode `json:"code"`
	Message string    `json:"message"`
	// Retryable is set if the same frame may succeed later.
	Retryable bool `json:"retryable"`
}

// GoAway announces that the gateway will close this connection soon.
type GoAway struct {
	Reason string `json:"reason"`
	// ReconnectAfterMs is the time from now until the client should reconnect, in
	// milliseconds.
	ReconnectAfterMs int64 `json:"reconnectAfterMs"`
}
