// Package client is the Go SDK: live values from a Pollcast gateway, each with
// its freshness.
//
//	gateway -> session.go -> apply.go -> store.go, clock.go (values and their age)
//	                      -> interest.go (subscriptions) -> update.go -> program
//	loop.go runs all of it in one goroutine, beside one that reads the connection.
//
// # What it does by itself
//
// A Client connects in the background. When it has lost its gateway it reconnects
// for ever, with jittered exponential backoff up to 30 s. It ends by itself only
// when the gateway closes with a code after which reconnecting makes no sense, for
// example without a valid token (see CloseError). When a gateway announces that it
// will go away, the client connects to another one first.
//
// Every subscription resumes where it stopped: the events that were published
// meanwhile follow, each once and in order. When the gateway cannot send them, a
// Resumed update has the reason, the current values follow, and a Gap update names
// every topic with missed events.
//
// # Nothing looks live that is not
//
// Every value is stale, with reason connection_lost, from the moment the
// socket is gone until a new connection has confirmed it, and stale with
// reason poller_silent when its poll's maxAge (and a second at most) has passed
// without a record. Both come as Freshness updates, and Client.Value shows them at
// any time. Ages are counted from the gateway's frames on the monotonic clock: the
// local wall clock does not matter, and a value is never shown younger than it is,
// also when frames were queued on the way. (The time that a suspended machine
// sleeps is noticed with the first frame after it.)
//
// # Bounds
//
// A subscription's channel holds SubscribeOptions.Buffer updates. When it is
// full the client waits for the reader, and so does everything else on its
// connection: nothing is dropped. A reader that does not read for too long
// makes the gateway close the connection (4002), and the client resumes. A reader
// that may be slow should have its own client, or use DeliverLatest. The topics and
// polls that a client holds are bounded by Options.MaxTopics.
package client
