// Package gateway fans the stream out to WebSocket clients. It keeps nothing
// that NATS does not know: any gateway can serve any client at any moment.
//
//	NATS ─► intake ─► hub ─► feed ─► writer ─► conn ─► client
//	                   ▲                        │
//	                   └────── subscribe ◄──────┘ reader
//
// Reading order:
//
//	gateway.go    the door: what is started and stopped in which order
//	intake.go     the stream's records become changes of the hub
//	hub.go        what is known: topics, polls, sources, and who wants them
//	fresh.go      how far a value can be trusted, also when nobody says anything
//	feed.go       an append-only log of frames, shared by all who want the same
//	subscribe.go  how a connection enters a feed: snapshot (collect.go) or
//	              replay (resume.go, history.go), then live; opening.go: shared
//	              by those who come together, as is what is read back of the
//	              stream (readback.go, past.go)
//	writer.go     who is behind gets what lies between its cursor and the end,
//	              the clients of one feed in strides (group.go)
//	conn.go       one connection; receive.go, reader.go: what it says
//	ws/           the bytes of WebSocket
//	sweep.go      pings, deadlines and silence, in one clock
//	handler.go    HTTP: upgrade, origin, caps; sse.go, values.go: without WebSocket
//	server.go     all connections: drain, clean-up, the registry
package gateway
