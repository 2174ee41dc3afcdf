// Package source is what the poller and the drivers agree on: what a poll asks
// (Call), of whom (Endpoint, Certificates), and why there may be no value
// (Failure). An arrow is an import:
//
//	drivers -> jsonrpc, rest, grpc -> web -> source
//
//	drivers     every driver by the name that configurations use
//	jsonrpc     JSON-RPC 2.0 over HTTP, also in batches
//	rest        any HTTP request that is answered with JSON (driver: http)
//	grpc        unary gRPC calls
//	web         what they share: requests over HTTP, connections, proxies, TLS,
//	            and which failure an outcome is
//	sourcetest  the tests that every driver must pass
//
// A new driver is a package with a source.Driver and a line in drivers.All.
package source
