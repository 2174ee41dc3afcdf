// Package record is what the stream holds of a poll, and how records get there: once
// each, and from one poller only.
//
//	Job ──► Publisher.Put ──► stream ──► State, and a Copy of each topic
//
// Every event and freshness record carries the sequence number of the poll's last
// freshness record as the expected one. A new lease holder publishes a freshness
// record first: from then on the stream refuses what an earlier holder sends
// (Fenced). It reads what the stream holds after that, and only then publishes an
// event (Synced). When the acknowledgement of an event is lost, nobody knows whether
// the event is stored, now or later: the holder starts again from the first step.
//
//	Unknown ──fence──► Fenced ──read──► Synced ──lost acknowledgement──► Unknown
//
// A check of the event's own subject would not do: it holds while the value stands
// still, so that an old holder's event could still be stored minutes later.
package record
