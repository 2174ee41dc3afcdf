//go:build linux

package main

import "time"

// task is what a driver shall do: one line of JSON on its standard input. The
// driver answers with one line, a turn. A task does one of three things.
type task struct {
	// Dial > 0: connect so many more clients to Addr.
	Addr string
	Dial int
	Sets bool // each client with its own set of topics
	// Listen > 0: receive for so long what others publish.
	Listen time.Duration
	// Otherwise: publish Bursts times Burst events and wait until they arrive.
	Burst, Bursts int
	Every         time.Duration // between bursts; 0: when the one before has arrived
	Framed        bool          // publish a client's frame, for a server that only forwards
}

// turn is the result of a task.
type turn struct {
	Error  string // empty: none
	Frames int64
	Bytes  int64
	Wall   time.Duration
	Late   []uint32 // histogram of latencies
}
