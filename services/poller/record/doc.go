// Package record is what the stream holds of a poll, and how records get there: once
// each, and from one poller only.
//
//	Job ──► Publisher.Put ──► stream ──► Stored
//
// Every event and freshness record carries the sequence number of the poll's last
// freshness record as the expected one. A new lease holder publishes a freshness
// record first: from then on the stream refuses what an earlier holder sends
// (fenced). It reads what the stream holds after that, and only then publishes an
// event (synced). When an acknowledgement is lost, nobody knows whether the event is
// stored: the holder starts again from the first step.
//
//	unknown ──TakeOver──► fenced ──read──► synced ──lost acknowledgement──► unknown
package record
