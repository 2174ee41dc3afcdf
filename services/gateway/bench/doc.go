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
// Each server is a process of its own, and so are its clients, which publish
// what they wait for; NATS is in the process that prints the table. The three
// servers stand all the time and take turns of a second or so, each round in
// another order, so that what else the machine does hits all of them alike; a
// ratio is the median of the rounds' ratios.
//
//	main.go     what to run
//	rows.go     the rows and their targets
//	contest.go  one row: three servers in turns
//	walk.go     the two rows of the gateway alone: the whole walk, and its start
//	servers.go  the servers; drive.go and clients.go: what is at their other end
//	report.go   the table; svg.go: the picture
package main
