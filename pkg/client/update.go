package client

import (
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
)

// Update is what a subscription delivers: an *Event, *Freshness, *Breaker,
// *Gap, *Resumed or *Connection. Updates are shared between subscriptions:
// do not change them.
type Update interface{ update() }

// Event is a topic's value. As an update it is what the gateway sent: its
// freshness fields are those of the time of sending. As a result of Client.Value
// they are those of the call.
type Event struct {
	wire.Event
	// Epoch is the incarnation of the stream that Seq belongs to.
	Epoch string
	// Age is how long ago the value was confirmed, when the update was made or
	// Value was called. Prefer it to AgeMs and AsOf, which include neither the
	// time on the way nor the difference between two clocks.
	Age time.Duration
	// Detail is the last failure in words, while stale; only from Client.Value.
	Detail string
}

// Position returns the place in the stream after this event, for
// SubscribeOptions.Since. Store the one of the last event handled. It is not
// valid while the current values arrive (Phase is wire.Snapshot): they come in no
// order.
//
// It is not the position of a poll that walks a sequence, which is the field
// e.Event.Position.
func (e *Event) Position() Position { return Position{Seq: e.Seq, Epoch: e.Epoch} }

// Freshness is how far a poll's values can be trusted: those of the poll's topic
// and of every keyed topic under it. It is sent for every record of the poll, and
// when the client itself finds that a poll became stale or fresh.
type Freshness struct {
	event.Freshness
	// Age is how long ago the poll's values were confirmed; negative when they
	// never were, or when the time is unknown.
	Age time.Duration
	// Changed is set if Stale, Reason or Breaker differ from the poll's Freshness
	// before this one. Otherwise it is a renewal.
	Changed bool
	// Local is set if the client judged, not the gateway.
	Local bool
}

// Breaker is the transition of a breaker.
type Breaker struct{ event.Breaker }

// Gap reports missed events of a topic: its version jumped. It comes before the
// Event that jumped, and only with wire.DeliverAll: otherwise versions may be
// skipped.
type Gap struct {
	Topic string
	// After is the last version seen, Before the next one.
	After, Before uint64
}

// Missed is the number of events that are missing.
func (g *Gap) Missed() uint64 { return g.Before - g.After - 1 }

// Resumed reports how a subscription continues after a lost connection, or after
// SubscribeOptions.Since. With wire.DeliverLatest it comes after Since only:
// otherwise the current values are enough.
type Resumed struct {
	// Complete is set if everything published meanwhile follows. Otherwise the
	// current values follow, and a Gap for every topic with missed events.
	Complete bool
	// Reason is why it is not complete: one of wire's NotResumed constants, or
	// empty when the connection was lost before there was a position to resume
	// from.
	Reason string
}

// Connection reports that the client lost its gateway, could not reach one at
// first, or has one again. While it is lost every value is stale.
type Connection struct {
	Connected bool
	// Gateway is the gateway's name, ID the connection's name in its logs; both
	// only while connected.
	Gateway, ID string
	// Moved is set if the client changed the gateway without losing anything.
	Moved bool
	// Err is why it was lost.
	Err error
	// RetryIn is when the client tries again.
	RetryIn time.Duration
}

func (*Event) update()      {}
func (*Freshness) update()  {}
func (*Breaker) update()    {}
func (*Gap) update()        {}
func (*Resumed) update()    {}
func (*Connection) update() {}
