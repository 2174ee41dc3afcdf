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

// Event is a topic's value. As an update it is what the gateway sent: the
// freshness fields are those of the moment it was sent. As an answer of
// Client.Value they are those of the moment of the call.
type Event struct {
	wire.Event
	// Epoch is the incarnation of the stream that Seq belongs to.
	Epoch string
	// Age is how long ago the value was confirmed, at the moment that the
	// update was made or Value was called. Prefer it to AgeMs and AsOf, which
	// know neither the way of the frame nor the difference between two clocks.
	Age time.Duration
	// Detail is the last failure in words, while stale; only from Client.Value.
	Detail string
}

// Position returns the place in the stream after this event, for
// SubscribeOptions.Since. Store that of the last event handled. It holds no
// promise while the current values still arrive (Phase is wire.Snapshot): they
// come in no order.
//
// The position of a poll that walks a sequence is another thing: it is the
// field e.Event.Position.
func (e *Event) Position() Position { return Position{Seq: e.Seq, Epoch: e.Epoch} }

// Freshness says how far a poll's values can be trusted: the poll's topic and
// every keyed topic under it. It is sent for every record of the poll and when
// the client itself finds that a poll is stale or no longer so.
type Freshness struct {
	event.Freshness
	// Age is how long ago the poll's values were confirmed; negative when they
	// never were, or when nobody has said since when.
	Age time.Duration
	// Changed says that Stale, Reason or Breaker differ from the poll's
	// Freshness before this one; otherwise it is a renewal.
	Changed bool
	// Local says that the client found it, not the gateway.
	Local bool
}

// Breaker says that a breaker changed its state.
type Breaker struct{ event.Breaker }

// Gap says that events of a topic were missed: its version jumped. It comes
// before the Event that jumped, and only with wire.DeliverAll; otherwise
// skipped versions are what was asked for.
type Gap struct {
	Topic string
	// After is the last version seen, Before the next one.
	After, Before uint64
}

// Missed is the number of events that are missing.
func (g *Gap) Missed() uint64 { return g.Before - g.After - 1 }

// Resumed says how a subscription goes on after a lost connection, or after
// SubscribeOptions.Since. With wire.DeliverLatest it comes after Since only:
// the current values are what was asked for.
type Resumed struct {
	// Complete says that everything published meanwhile follows. If it is false
	// the current values follow, and a Gap for every topic that has missed
	// events.
	Complete bool
	// Reason says why it is not complete: one of wire's NotResumed constants, or
	// empty when the connection was lost before there was a place to go on from.
	Reason string
}

// Connection says that the client lost its gateway, could not reach one at
// first, or has one again. While it is lost every value is stale.
type Connection struct {
	Connected bool
	// Gateway is the gateway's name, ID the connection's in its logs; while
	// connected.
	Gateway, ID string
	// Moved says that the client changed the gateway without losing anything.
	Moved bool
	// Err says why it was lost.
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
