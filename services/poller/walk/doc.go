// Package walk follows a sequence that grows, such as the blocks of a chain: it asks
// for every position between the last published one and the head, once, in order.
//
//	head (ask.Reading) ─► Walker.Walk ─► Walked: steps to publish
//	                         │
//	                         ├─ positions, several in one batch
//	                         └─ a reorganisation: back to the newest position that
//	                            the upstream still has, then on from there
package walk
