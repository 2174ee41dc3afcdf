// Command bench measures what the gateway's fan-out costs, against two
// baselines in the same run: the floor (a bare loop of one write(2) per client
// and event) and a textbook hub (a channel of 256 and a write pump with
// gorilla/websocket per client). Each server is a process of its own, fed by
// the same NATS server; the clients are in this one.
//
//	bench                 the whole table
//	bench -serve floor    one of the servers, as the table starts it
package main
