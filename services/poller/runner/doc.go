// Package runner polls one source as it is configured.
//
//	Serve ─► restore what the stream holds ─► run the polls ─► last records
//	                                             │
//	             transitions of the circuits ────┴─► published in their order
//
// A runner has one session after another: each time this poller holds the source's
// lease. When the configuration changes another runner takes its place and inherits
// what the stream does not know.
package runner
