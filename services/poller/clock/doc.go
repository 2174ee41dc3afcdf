// Package clock keeps the times of a poller right when the wall clock is set, and
// notices when the process stood still.
//
// Somebody may set the wall clock forward or back while a poller runs, or between two
// runs. The poller must then not poll in a burst, not wait for an hour, and not call a
// value younger than it is. So a time inside this process counts by the monotonic
// clock, which time.Now carries, and a time in a record is wall-clock time:
//
//	a time of this process ──WallTime──► a record
//	a record               ──Anchor────► a time of this process
//
// WallTime follows a wall clock that was set back, and never one that was set forward:
// the value in the record may look older than it is, but not younger.
package clock
