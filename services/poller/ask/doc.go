// Package ask asks the upstreams of a source in one tick of a poll, and judges what
// they answer.
//
//	Upstreams.Pick ─► Asker.Read ─► one round: first, fail-over, retry, hedge
//	                                  │ Attempt ─► source driver ─► upstream
//	                                  │ Judge   ─► value, digest, items, or a failure
//	                                  ▼
//	                                Reading ─► Report tells the circuits
//
// A round makes one success or one failure of each upstream that it asked, however
// many calls there were. A fault of the poll's own request or expression is no word
// about the upstream.
package ask
