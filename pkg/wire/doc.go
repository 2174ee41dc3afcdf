// Package wire is the protocol between a gateway and its clients: the frames of
// proto/pollcast/v1, the close codes and the error codes of proto/wire.md. The
// gateway and the client SDK read and write frames only through it.
package wire

// The WebSocket subprotocols, in the server's order of preference. A client
// that offers none gets JSON.
const (
	ProtocolJSON  = "pollcast.v1.json"
	ProtocolProto = "pollcast.v1.proto"
)
