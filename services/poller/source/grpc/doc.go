// Package grpc is the driver grpc: unary calls of gRPC
// (https://grpc.io/docs/what-is-grpc), with JSON in and out by the JSON mapping of
// protobuf.
//
//	grpc.go     the driver and one call
//	schema.go   the messages of a method: from a descriptor set or from reflection
//	reflect.go  server reflection
//	failure.go  which failure a gRPC status is
//
// A call uses a connection of package web, which is made when the call needs it. A
// channel of grpc-go would connect by itself while it is broken, also to an
// upstream whose circuit is open.
package grpc
