// Package web asks upstreams over HTTP, for every driver:
//
//	client.go       one request and its answer
//	connections.go  the connections to one upstream, when they are made and closed
//	proxy.go        upstreams behind HTTP_PROXY
//	classify.go     which failure an outcome is
//	tlsdetail.go    TLS failures in an operator's words
//	json.go         JSON answers that are not JSON
package web
