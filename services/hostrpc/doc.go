// Package hostrpc is a JSON-RPC 2.0 server over HTTP POST that reports on the
// host it runs on: load, volumes, interfaces, processes, time. It is
// Pollcast's default upstream.
//
//	POST / or /jsonrpc -> http.go -> rpc.go -> fault.go -> methods.go
//	                      transport  protocol  on demand   params
//	                                                         |
//	        system.go  network.go  process.go  <- sampler.go |  every second
//	        storage.go                         <-------------+  on call
//
// Everything that is a difference between two counters (CPU percent, bytes per
// second) comes from one sampler goroutine per server, so an answer does not
// depend on who else asks or how often. A reading that the host refuses is
// null, and named with the reason in the answer's unavailable list; the other
// fields stay. Readings that stop being renewed are an error, never old
// numbers that look new.
//
// With Config.AllowFaults the methods fault.set, fault.list and fault.clear,
// and [Server.Faults], make chosen methods slow, wrong or silent, so that what
// Pollcast does about a bad upstream can be watched.
//
// Readings come from gopsutil, which honours HOST_PROC, HOST_SYS and HOST_ETC:
// a container that mounts the host's /proc elsewhere sets those.
//
// Reading order: server.go (the door), http.go, rpc.go, methods.go,
// sampler.go, then the readings.
package hostrpc
