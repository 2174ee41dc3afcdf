// Package console is the web console that a gateway serves at /: a page that
// shows every poll with its value, its age and why it is stale when it is.
//
// The page is a client like any other: it talks to the gateway's WebSocket with
// the frames of proto/pollcast/v1, and to nothing else. Its source is in src,
// its tests in test; `npm run build` makes dist, which is committed, so that
// nobody needs Node to build or run a gateway.
package console
