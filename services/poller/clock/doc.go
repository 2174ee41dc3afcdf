// Package clock keeps the times of a poller right when the wall clock is set, and
// notices when the process stood still.
//
// What is counted in this process is counted by the monotonic clock, which time.Now
// carries along. What a record says is wall-clock time. The two meet here:
//
//	a time of this process ──WallTime──► a record
//	a record               ──Anchor────► a time of this process
//
// A value must never look younger than it is, so that WallTime follows a wall clock
// that was set back, and never one that was set forward.
package clock
