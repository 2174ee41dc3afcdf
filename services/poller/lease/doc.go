// Package lease decides which poller polls a source. Each source has one entry in a
// NATS key-value bucket. The entry names the holder of the source's lease. It vanishes
// when the holder does not renew it for the lease time.
//
//	Lease.Acquire ──► Tenure ──► Lease.Hold renews it ──► Lease.Release
//	     │                          │
//	     │                          └─ ErrExpired, ErrFenced: the lease is lost
//	     └─ Group ──► shares: may this poller take it now
//
// A Group knows the other pollers that share the sources and makes the shares even.
// Safety does not depend on it: only the entry decides who holds a lease. The fence
// orders the tenures of a source and is part of every record.
package lease
