// Package gateway fans the stream out to clients. It keeps nothing that NATS does
// not know: any gateway can serve any client at any moment.
//
//	NATS ─► intake ─► hub ─► feed ─► group, writer ─► conn ─► client
//	                   ▲                               │
//	                   └──────── subscribe ◄───────────┘ reader
//
// Packages, of which each knows only those before it:
//
//	ws/      the bytes of WebSocket
//	memory/  the one budget
//	hub/     what is known, the feeds, history, freshness: no sockets
//	frame/   the bytes of frames
//	conn/    what is sent to a client: connections and their writers
//
// Files here:
//
//	gateway.go    the door: what is started and stopped in which order
//	intake.go     the stream's records, for the hub
//	session.go    a connection with what its client sends: receive.go, reader.go
//	subscribe.go  how a connection enters a feed, after behind.go; readback.go,
//	              past.go: what is read back of the stream for clients that resume
//	handler.go    HTTP: upgrade, origin; sse.go, values.go: without WebSocket
//	gate.go       when a client may come in; sockets.go: before it has asked
//	admit.go      who may come in; room for identity and bounds per client address
//	sweep.go      pings, deadlines and silence, in one clock; evict.go: memory
//	server.go     all connections: drain, clean-up, the registry
//
// Three places decide what a client may do: admit (admit.go) for its request, let
// (also there) for its connection, handle (reader.go) for its frames.
package gateway
