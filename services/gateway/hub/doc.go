// Package hub is what a gateway knows of the stream, and how that becomes frames
// for any number of clients. It has no socket, no HTTP and no connection to NATS:
// records come in by its methods, frames go out as bytes in feeds.
//
//	records ─► intake.go ─► view.go ─► publish.go ─► feed.go ─► chunk.go ─► Cursor
//	            apply        topics      live         append      bytes
//	                         polls       frames         └─► Group.Wake
//
// A new or returning client gets, before the live frames:
//
//	opening.go   a snapshot or a replay, shared by those who come together
//	resume.go    the events after a position: from history.go, or from a part of
//	             the stream that was read back (stretch.go)
//	newest.go    what a slow client with delivery "latest" skips to
//
// How far a value can be trusted is in trust.go, the rates in rate.go, what is
// shown to HTTP clients and operators in list.go.
//
// One mutex guards everything: a View is the proof that it is held. The exceptions
// are a feed's published bytes, which a Cursor reads without it.
package hub
