// Package ask asks the upstreams of a source in one tick of a poll, and judges their
// answers.
//
//	Upstreams.Pick ─► Asker.Read ─► one round: first call, fail-over, retry, hedge
//	                                  │ Attempt ─► source driver ─► upstream
//	                                  │ judge   ─► value, digest, items, or a failure
//	                                  ▼
//	                                Reading ─► Report: one result for each circuit
//
// A round counts as one success or one failure of each upstream that it asked, however
// many calls it made. A fault of the poll's own request or expression does not count
// against the upstream.
package ask
