// Package bus is Pollcast's contract with NATS: the subjects, the stream and
// its republish rule, how records look as messages, and how to read them back.
//
//	poller ─► pollcast.in.<topic> ─► stream POLLCAST ─► pollcast.live.<topic> ─► readers
//
// Reading order: names.go (subjects), connect.go, stream.go, message.go (record
// to message and back), leader.go (reads one message), directget.go (reads many
// without a consumer), follow.go (the stream as one ordered log without gaps).
package bus
