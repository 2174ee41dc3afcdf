// Package walk follows a sequence that grows, such as the blocks of a chain. It asks
// for each position between the last published one and the head, once and in order.
//
//	head (ask.Reading) ─► Walker.Walk ─► Walked: steps to publish
//	                         │
//	                         ├─ positions, several at once if the source has batches
//	                         └─ a reorganisation: back to the newest position that
//	                            the upstream still has, and on from there
package walk
