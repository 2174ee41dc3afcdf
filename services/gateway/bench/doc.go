//go:build linux

// Command bench measures what the gateway's fan-out costs, against two
// baselines in the same run: the floor (a bare loop of one write(2) per client
// and event) and a textbook hub (a channel of 256 and a write pump with
// gorilla/websocket per client).
//
//	bench                 every row, as a table
//	bench -rows one,sets  some of them
//	bench -serve floor    one of the servers, as the table starts it
//	bench -drive          one set of clients, as the table starts it
//
// Each server is a process of its own. Its clients are another process, which
// also publishes the events. NATS runs in the process that prints the table.
// The three servers run all the time and are measured in turns of about a second,
// each round in another order: other load on the machine hits all of them alike.
// A ratio is the median of the rounds' ratios.
//
// The benchmark is a module outside of go.work, so that the gateway's module
// needs no NATS server. make bench-fanout builds it.
//
//	main.go     what to run
//	rows.go     the rows and their targets
//	task.go     what the table and a driver send each other
//	contest.go  one row: three servers in turns
//	walk.go     the two rows of the gateway alone: the whole walk, and its start
//	servers.go  the servers; drive.go and clients.go: their clients
//	report.go   the table; svg.go: the picture
package main
