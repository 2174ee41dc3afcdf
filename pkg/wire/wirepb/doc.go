// Package wirepb is made from proto/pollcast/v1 by `make gen`: the frames and
// records as protobuf, for clients that speak pollcast.v1.proto and for tests
// that hold package wire against the contract.
package wirepb
