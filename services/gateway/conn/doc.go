// Package conn is the connections of clients, WebSocket or SSE, and the writers
// that send to them what their feeds have grown by.
//
//	Feed ─ Group.Wake ─► Writer (writer.go) ─► Group (group.go), in strides
//	                        │                     │ each connection that is behind
//	                        ▼                     ▼
//	            a goroutine of its own ◄─ full ─ out.next (out.go) ─► socket
//	            (drain), or conflate.go           ▲
//	reader, sweep ─► Conn.Send, Enter, Close ─► mail (mail.go)
//
// A Conn has three parts, by owner:
//
//	out      what is sent next: the writer's or, while the socket is full, its
//	         drain goroutine's
//	mail     what waits to be sent, from any goroutine: under its mutex
//	account  what the connection costs and how far it is (account.go): atomics
//
// This package does not read what a client sends.
package conn
