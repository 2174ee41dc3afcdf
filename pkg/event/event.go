package event

import (
	"encoding/json"
	"time"
)

// The CloudEvents types of the records.
const (
	TypeEvent    = "pollcast.event.v1"
	TypeDeletion = "pollcast.deletion.v1"
	TypeFresh    = "pollcast.freshness.v1"
	TypeBreaker  = "pollcast.breaker.v1"
	// TypeReorganised is an event that withdraws positions.
	TypeReorganised = "pollcast.reorganised.v1"
)

// Event is a published change of a topic's value.
type Event struct {
	Topic string
	// Poll is the poll the topic belongs to: the topic itself or, for a keyed
	// topic, the topic without its last token.
	Poll string
	// Key is the key as the upstream gave it; empty when the topic has none.
	Key string
	// Data is the value as JSON; nil for a deletion.
	Data json.RawMessage
	// Deleted is set if the key is gone from the poll's answer.
	Deleted bool
	// Position is the place in the sequence that the poll walks (follow); nil
	// when it walks none.
	Position *int64
	// Reorganised is set if the events for the positions after Position are not
	// valid any more; -1 is before all. Data is then a Reorganisation.
	Reorganised bool
	// Version counts the topic's events from 1, by 1: a gap is a subtraction.
	Version uint64
	// ChangedAt is when a poll first saw this value.
	ChangedAt time.Time
	// AsOf is when the request was sent whose answer confirmed this value: the
	// value is never older than its age says.
	AsOf time.Time
	// Fence is the revision of the lease under which it was published.
	Fence uint64
	// Upstream is the endpoint that answered, without credentials.
	Upstream string
	// Traceparent is the W3C trace context of the poll; may be empty.
	Traceparent string
}

// Reorganisation is the value of an event that withdraws positions, as
// {"reorganised": {...}}.
type Reorganisation struct {
	Reorganised struct {
		// From is the newest position that was published, To the newest that is
		// still valid; -1 if none is.
		From int64 `json:"from"`
		To   int64 `json:"to"`
		// ID is the id of To, if positions have one (follow.id) and it is known.
		ID json.RawMessage `json:"id,omitempty"`
	} `json:"reorganised"`
}

// State of a circuit breaker.
type State string

// The states of a breaker. A source's breaker is closed while any upstream's
// circuit is, open when all are, half open while a probe is out.
const (
	Closed   State = "closed"
	Open     State = "open"
	HalfOpen State = "half_open"
)

// Freshness is the freshness record of a poll. It is valid for the poll's topic
// and for every keyed topic under it.
type Freshness struct {
	Poll string `json:"poll"`
	// AsOf is when the request was sent that last confirmed the poll's values;
	// zero when there was none.
	AsOf time.Time `json:"asOf,omitzero"`
	// CheckedAt is when this record was made.
	CheckedAt time.Time `json:"checkedAt,omitzero"`
	Stale     bool      `json:"stale"`
	// Reason is why it is stale; empty while it is fresh.
	Reason Reason `json:"reason"`
	// Detail is the text of the last failure, at most MaxDetail bytes, without
	// secrets; empty while there is none.
	Detail              string `json:"detail,omitempty"`
	Breaker             State  `json:"breaker"`
	ConsecutiveFailures int    `json:"consecutiveFailures"`
	// NextProbeAt is when an open breaker lets its next call through.
	NextProbeAt time.Time `json:"nextProbeAt,omitzero"`
	// IntervalMs is the poll's interval, in milliseconds.
	IntervalMs int64 `json:"intervalMs"`
	// MaxAgeMs is how long the record is valid without renewal, in milliseconds:
	// a reader that has seen no newer one for so long must take the poll's values
	// for stale (PollerSilent).
	MaxAgeMs int64 `json:"maxAgeMs"`
	// Fence is the revision of the lease under which it was published.
	Fence uint64 `json:"fence,omitempty"`
}

// MaxAge returns MaxAgeMs as a duration.
func (f *Freshness) MaxAge() time.Duration { return time.Duration(f.MaxAgeMs) * time.Millisecond }

// MaxDetail bounds Freshness.Detail and Breaker.Cause, in bytes.
const MaxDetail = 240

// Breaker is a breaker transition of one upstream of a source.
type Breaker struct {
	Source   string `json:"source"`
	Upstream string `json:"upstream"`
	From     State  `json:"from"`
	To       State  `json:"to"`
	// Cause is the text of the failure that opened it; "recovered" when it
	// closed, "probe" when it became half open.
	Cause    string    `json:"cause"`
	Failures int       `json:"failures"`
	At       time.Time `json:"at,omitzero"`
	// NextProbeAt is when an open breaker lets its next call through.
	NextProbeAt time.Time `json:"nextProbeAt,omitzero"`
	Fence       uint64    `json:"fence,omitempty"`
}

// Circuit is the state of one upstream's circuit. Records carry the circuits of
// all upstreams of their source for the next lease holder. Clients do not receive
// them.
type Circuit struct {
	Upstream string `json:"upstream"`
	State    State  `json:"state"`
	// Failures counts the failures in a row.
	Failures int    `json:"failures"`
	Cause    string `json:"cause,omitempty"` // of the last failure
	// At is when any of this last changed, Changes how often that was: of two
	// records of one lease holder the one with more changes is the later.
	At      time.Time `json:"at,omitzero"`
	Changes uint64    `json:"changes"`
	// NextProbeAt is when an open circuit lets its next call through.
	NextProbeAt time.Time `json:"nextProbeAt,omitzero"`
	// WaitUntil is the end of the pause that the upstream asked for
	// (Retry-After).
	WaitUntil time.Time `json:"waitUntil,omitzero"`
	// Calls counts the calls in each of the last seconds before the record, the
	// latest first, if the calls are limited.
	Calls []int `json:"calls,omitempty"`
}

// Place is how far a poll has walked along a sequence. Freshness records carry it
// for the next lease holder, because the stream may have dropped the last event.
// Clients do not receive it.
type Place struct {
	Position int64  `json:"position"`
	Version  uint64 `json:"version"` // of the topic's last event
	// ID is the result of the expression By for the value there, as JSON.
	ID json.RawMessage `json:"id,omitempty"`
	By string          `json:"by,omitempty"`
}

// Detail cuts s to MaxDetail bytes at a rune boundary, on one line.
func Detail(s string) string {
	b := make([]rune, 0, len(s))
	n := 0
	for _, r := range s {
		if r == '\n' || r == '\r' || r == '\t' {
			r = ' '
		}
		if n += len(string(r)); n > MaxDetail-len("…") {
			return string(b) + "…"
		}
		b = append(b, r)
	}
	return string(b)
}
