// Package poll is one call, repeated: it decides when to ask, keeps the last good
// value, says how far it can be trusted, and publishes both.
//
//	timer, answer, acknowledgement, breaker change
//	        │
//	        ▼
//	    Poll.Advance ─► a call to make ─► ask.Asker ──► take: what is known now
//	        ▲       └─► a job to publish ─► record ───► settle: what is stored now
//	        └───────────────────────────────────────────────┘
//
// Its state is guarded by its mutex:
//
//	ticks   when it asks next
//	kind    what a good answer is: values, or positions of a sequence (following)
//	topics  the last good value of each topic, and what the stream holds of it
//	trust   whether the value is stale, and why: the one place that decides
//	outbox  the freshness record, and the publish that is under way
//
// A poll is no goroutine. Whoever brings news takes its mutex and lets it advance. The
// mutex is never held while something waits: at most one round of calls and one
// publish are under way, and run without it.
//
// # Rules
//
//   - asOf is when the request was sent that last confirmed a value. It moves for no
//     other reason.
//   - No freshness record confirms a value whose event is not stored: events come
//     first, then freshness.
//   - A walk asks for nothing more while something it has found is not stored.
package poll
