// Package ws is the server's side of WebSocket: RFC 6455 and RFC 7692, as bytes.
// It knows no sockets and nothing of Pollcast. The opening handshake is left to
// a library; what follows it is here:
//
//	client's bytes ─► Reader.Feed ─► messages and control frames   (read.go, inflate.go)
//	payload ─► AppendHeader, Control, Close ─► server's frame      (frame.go)
//	server's frame ─► Compress ─► the same frame, compressed       (deflate.go)
//
// offer.go decides which offers of permessage-deflate are accepted. Package
// wstest makes a client's frames for tests.
package ws
