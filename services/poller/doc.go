// Package poller polls RPCs and publishes what changes, with its freshness, to the NATS
// stream.
//
//	poller.go, reload.go   the door: New, Run, Reload, Status
//	link.go, server.go     NATS: connection, stream, bucket of the leases
//	sources.go             all sources of the configuration
//	supervisor.go          one source: its lease, and one runner after another
//	      │
//	   runner ─► poll ─► ask ─► breaker, source ─► upstream
//	      │       │      walk
//	      │       └────► record ─► stream POLLCAST
//	      └─► lease
//
// An arrow between the packages goes only downwards in this list:
//
//	runner                 one source while this poller holds its lease
//	poll                   one call, repeated: ticks, last good value, freshness
//	walk                   a growing sequence, position by position
//	ask                    one tick at the upstreams: fail-over, retries, hedge
//	config, record         the settings; what the stream holds
//	breaker, lease, jq, history, source
//	clock
//
// # Rules
//
//   - Only the holder of a source's lease polls it and publishes for it. Each record
//     carries the lease's fence, and the stream refuses it once a newer holder has
//     published.
//   - Parameters, headers and the paths of URLs may hold secrets: they are in no log
//     line, record, metric or status.
package poller
