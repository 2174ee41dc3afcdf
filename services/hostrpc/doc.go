// Package hostrpc is a JSON-RPC 2.0 server over HTTP POST that reports on its
// host: load, volumes, interfaces, processes, time. It is Pollcast's default
// upstream.
//
//	POST / or /jsonrpc -> http.go -> rpc.go -> fault.go -> methods.go
//	                      transport  protocol  on demand   params
//	                                                         |
//	        system.go  network.go  process.go  <- sampler.go |  every second
//	        storage.go                         <-------------+  on call
//
// One sampler goroutine per server computes everything that is a difference
// between two counters (CPU percent, bytes per second), so that an answer does
// not depend on other callers. A reading that the host refuses is null, and the
// answer's unavailable list has its name and the reason. Readings that are no
// longer renewed become an error: old numbers must not look new.
//
// With Config.AllowFaults the methods fault.set, fault.list and fault.clear, and
// [Server.Faults], make chosen methods slow, wrong or silent, to show what
// Pollcast does about a bad upstream.
//
// It is larger than a demonstration needs because it is also the upstream of the
// tests, of `make up` on every kind of host, and of the images: the faults, the
// volumes that hang and the processes on demand each have a page in docs or a
// test that uses them.
//
// Readings come from gopsutil, which obeys HOST_PROC, HOST_SYS and HOST_ETC: a
// container that mounts the host's /proc elsewhere sets those.
//
// Reading order: server.go (the door), http.go, rpc.go, methods.go, sampler.go,
// then the readings.
package hostrpc
