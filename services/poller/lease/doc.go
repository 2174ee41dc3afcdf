// Package lease decides which poller polls a source. One entry of a NATS key-value
// bucket per source says who holds its lease; it vanishes when it is not renewed.
//
//	Lease.Acquire ──► Tenure ──► Lease.Hold renews it ──► Lease.Release
//	     │                          │
//	     └─ Group: whose turn is it └─ ErrExpired, ErrFenced: lost
//
// A Group is what a poller knows of the others that share the sources. It makes the
// shares even. Safety does not depend on it: that is the lease's, and the fence's,
// which orders the tenures of a source and is part of every record.
package lease
