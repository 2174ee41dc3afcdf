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
//
// Files here:
//
//	gateway.go    the door: what is started and stopped in which order
//	intake.go     the stream's records, for the hub
//	conn.go       one connection; writer.go, group.go: what is sent to it;
//	              receive.go, reader.go: what it sends
//	subscribe.go  how a connection enters a feed; readback.go, past.go: what is
//	              read back of the stream for clients that resume
//	handler.go    HTTP: upgrade, origin, bounds; sse.go, values.go: without WebSocket
//	sweep.go      pings, deadlines and silence, in one clock; evict.go: memory
//	server.go     all connections: drain, clean-up, the registry
package gateway
