// Package bus is Pollcast's contract with NATS: the subjects, the stream and
// its republish rule, how records look as messages, and how to read them back.
//
//	poller ─► pollcast.in.<topic> ─► stream POLLCAST ─► pollcast.live.<topic> ─► readers
//
// Reading order: config.go (settings), names.go (subjects), connect.go (a
// connection that no error ends; login.go, tls.go, subscription.go, limits.go and
// storing.go belong to it), stream.go and managed.go (the stream, and one that
// somebody else manages), leases.go, message.go (record to message and back),
// leader.go (reads one message), directget.go (reads many without a consumer),
// follow.go (the stream as one ordered log without gaps).
package bus
