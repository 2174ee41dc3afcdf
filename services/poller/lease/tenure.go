package lease

import (
	"encoding/json"
	"errors"
	"sync/atomic"
	"time"
)

// Why a tenure ends, beside the end of the poller.
var (
	// ErrFenced means that another poller holds the lease and may have published
	// under a higher fence.
	ErrFenced = errors.New("another poller holds the lease now")
	// ErrExpired means that the lease was not renewed in time, by this process's clock.
	ErrExpired = errors.New("lease is over")
	// ErrGiven means that this poller gave the lease back to make the shares even.
	ErrGiven = errors.New("another poller has fewer sources")
)

// Tenure is the time for which this poller holds a lease. Valid and Renewed may be
// called by several goroutines.
type Tenure struct {
	// Fence is higher than the fence of every earlier tenure of the source. It is the
	// revision of the entry when the lease was acquired. If the bucket was created
	// again and counts from 1, the runner raises Fence above what the stream holds
	// before it publishes.
	Fence      uint64
	Start      time.Time // when the lease was asked for, with its monotonic reading
	Why        string    // why the lease was free, for the log and the status
	HandedOver bool      // the former holder gave it back less than handOverTime before Start

	entry    []byte       // value of the entry in the bucket
	revision uint64       // of the entry, as last written
	ends     atomic.Int64 // nanoseconds after Start
}

// Valid reports whether the lease still holds by this process's monotonic clock.
func (t *Tenure) Valid() bool { return time.Since(t.Start) < t.length() }

// Renewed extends the tenure to ttl after sent, the time before the renewal was sent.
// The server counts from a later moment, so that the tenure ends first.
func (t *Tenure) Renewed(sent time.Time, ttl time.Duration) {
	t.ends.Store(int64(sent.Sub(t.Start) + ttl))
}

// prolong extends the tenure by half of ttl after sent, when NATS had no storage for
// the renewal. Until NATS has storage, no other poller can get the lease either. If
// one gets it then, the next renewal finds out.
func (t *Tenure) prolong(sent time.Time, ttl time.Duration) {
	t.ends.Store(max(t.ends.Load(), int64(sent.Sub(t.Start)+ttl/2)))
}

// length is the time from Start to the end of the lease, as last renewed.
func (t *Tenure) length() time.Duration { return time.Duration(t.ends.Load()) }

// left is the time until the lease ends; it is negative afterwards.
func (t *Tenure) left() time.Duration { return t.length() - time.Since(t.Start) }

// Holder is the value of a lease's entry, in JSON. Pollers use only Owner; the rest
// is for the people who read the status.
type Holder struct {
	Owner string    `json:"owner"` // name of the poller
	Host  string    `json:"host"`
	Since time.Time `json:"since"`
	Why   string    `json:"why,omitempty"` // why the lease was free when this poller took it
}

// unknown is the owner of an entry that is not valid.
const unknown = "unknown"

// decodeHolder reads an entry. An entry that is not valid belongs to unknown.
func decodeHolder(entry []byte) Holder {
	var h Holder
	if err := json.Unmarshal(entry, &h); err != nil || h.Owner == "" {
		return Holder{Owner: unknown}
	}
	return h
}
