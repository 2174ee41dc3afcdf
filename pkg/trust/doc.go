// Package trust decides when a reader must take a poll's values for stale. The
// gateway and the Go client use the same rule, on their own clocks:
//
//	Judge   applies what the reader knows to the poll's last freshness record
//	Until   is the time until which a record holds without a newer one
//	Offset  estimates by how much a sender's clock differs from the reader's
//	Lag     is an Offset of records from pollers, which take over from each other
//	        and whose clocks may be set
package trust
