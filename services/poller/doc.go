// Package poller polls RPCs and publishes what changes, with its freshness, to
// the NATS stream.
//
//	             config.go ─► poller.go (the door) ─► one runner.go per source
//	                                                       │ lease.go: one poller owns it
//	schedule.go ──► poll.go ──► visit.go ──► breaker.go ──► source/ ──► upstream
//	  when          one poll,    whom and     whether        how
//	                its state    how often       │
//	                  │  ▲                       └─► transitions.go ─┐
//	  reading.go  ◄───┘  │ the outcome of a call        │
//	  shape.go           │ jq: value, keys              │
//	  lastgood.go        │ value, asOf, what is stored  │
//	  keys.go            │ the same, key by key         │
//	  walk.go, follow.go │ position by position         │
//	  change.go          │ is it another value?         │
//	  advance.go         │ does it stand still?         │
//	  freshness.go ──────┘ what to say ──► publish.go ──┴─► stream POLLCAST
//
// Reading order: poll.go with schedule.go, life.go and workers.go (a poll is no
// goroutine: whoever brings news takes it further, and it never waits: at most one
// visit to its upstreams and one publish are under way), visit.go with pace.go and quota.go (one tick: fail-over, retries, hedge),
// template.go (what is asked), reading.go and shape.go, breaker.go, lastgood.go, keys.go and change.go, freshness.go,
// publish.go with takeover.go (how a new owner begins), walk.go with follow.go (a poll that walks a sequence), then runner.go with upstream.go and lease.go,
// turn.go and replicas.go (which poller gets which lease), poller.go with stay.go (at which NATS server) and dropped.go (what the stream has lost), seat.go and reload.go (a configuration that changes), status.go and metrics.go.
// feasibility.go computes what settings amount to, for pollcast check.
//
// # Rules
//
//   - asOf is when the request was sent that last confirmed a value; it moves
//     for no other reason.
//   - No freshness record confirms a value whose event is not stored: a job is
//     event first, then freshness.
//   - A walk asks for nothing more while something it has found is not stored.
//   - Whoever owns a source's lease polls it and publishes for it, nobody else:
//     every message carries the lease's fence and is refused by the stream once
//     a newer owner has spoken. That one reads the stream after it has, and
//     publishes no event before.
//   - Parameters, headers and the paths of URLs may hold secrets: they are in no
//     log line, record, metric or status.
package poller
