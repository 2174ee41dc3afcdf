package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/services/poller/clock"
)

// handOverTime bounds how long after its release a lease counts as handed over.
const handOverTime = 2 * time.Second

// tryInTurn asks for the lease once, unless other pollers come first. Then it returns
// how much longer the lease must stay free before this poller may ask.
func (l *Lease) tryInTurn(ctx context.Context) (t *Tenure, left time.Duration, err error) {
	shares := l.group.shares
	if shares.claim(l.key, 0) > 0 {
		free, err := l.free(ctx)
		if !free || err != nil {
			l.freeSince = time.Time{}
			return nil, 0, err
		}
		if l.freeSince.IsZero() {
			l.freeSince = time.Now()
		}
		if wait := shares.claim(l.key, time.Since(l.freeSince)); wait > 0 {
			return nil, wait - time.Since(l.freeSince), nil
		}
	}
	l.freeSince = time.Time{}
	if t, err = l.try(ctx); t == nil {
		shares.drop(l.key)
	} else {
		l.releaser.Store(nil)
		shares.acquired(l.key)
	}
	return t, 0, err
}

// free reports whether no other poller holds the lease. If the lease ran out, its last
// holder may be dead.
func (l *Lease) free(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, l.group.ttl/3)
	defer cancel()
	entry, err := l.group.kv.Get(ctx, l.key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		if h := l.holder.Load(); h != nil && l.releaser.Load() == nil {
			l.group.shares.leaseRanOut(h.Owner)
		}
		return true, nil
	case err != nil:
		return false, err
	case l.ours(entry.Value()): // of a try whose answer was lost
		return true, nil
	}
	l.noteHolder(entry.Value())
	return false, nil
}

// try asks for the lease once. It returns no tenure and no error when another poller
// holds the lease.
func (l *Lease) try(ctx context.Context) (*Tenure, error) {
	kv := l.group.kv
	ctx, cancel := context.WithTimeout(ctx, l.group.ttl/3)
	defer cancel()
	t := &Tenure{Start: time.Now()}
	t.Why, t.HandedOver = l.whyFree(t.Start)
	var err error
	self := l.group.self
	t.entry, err = json.Marshal(Holder{Owner: self.Owner, Host: self.Host, Since: clock.Stamp(t.Start), Why: t.Why})
	if err != nil {
		return nil, fmt.Errorf("encode lease: %w", err)
	}
	t.revision, err = kv.Create(ctx, l.key, t.entry)
	if errors.Is(err, jetstream.ErrKeyExists) {
		entry, err := kv.Get(ctx, l.key)
		if err != nil {
			if errors.Is(err, jetstream.ErrKeyNotFound) {
				err = nil // it was released between the two calls
			}
			return nil, err
		}
		if !l.ours(entry.Value()) {
			l.noteHolder(entry.Value())
			return nil, nil
		}
		// An earlier try created the entry, but its acknowledgement was lost.
		if t.revision, err = kv.Update(ctx, l.key, t.entry, entry.Revision()); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	t.Fence = t.revision
	t.Renewed(t.Start, l.group.ttl)
	l.noteHolder(t.entry)
	return t, nil
}

// whyFree explains why the lease is free at a time, if it is, and reports whether its
// last holder gave it back just before.
func (l *Lease) whyFree(at time.Time) (why string, handedOver bool) {
	h, r := l.holder.Load(), l.releaser.Load()
	switch {
	case r != nil:
		return r.owner + " gave it back", at.Sub(r.at) < handOverTime
	case h != nil && h.Owner != l.group.self.Owner:
		return h.Owner + " did not renew it", false
	}
	return "nobody held it", false
}

// noteHolder remembers the holder that an entry names, and logs a new one.
func (l *Lease) noteHolder(entry []byte) {
	h := decodeHolder(entry)
	other := h.Owner != l.group.self.Owner
	if other {
		// The message that a lease was released comes a little before the release.
		if r := l.releaser.Load(); r != nil && (r.owner != h.Owner || time.Since(r.at) > handOverTime) {
			l.releaser.Store(nil)
		}
		l.group.shares.takenByOther(l.key)
	}
	if old := l.holder.Swap(&h); other && (old == nil || old.Owner != h.Owner) {
		l.log.Info("another poller holds the lease", "owner", h.Owner, "since", h.Since)
	}
}

// orphaned reports whether the holder of the lease has gone without a release.
func (l *Lease) orphaned() bool {
	h := l.holder.Load()
	return h != nil && l.releaser.Load() == nil && !l.group.shares.knows(h.Owner)
}

// noteRelease remembers that the holder has probably released the lease, and has
// Acquire look at once.
func (l *Lease) noteRelease() {
	if h := l.holder.Load(); h != nil && h.Owner != l.group.self.Owner {
		l.releaser.Store(&release{h.Owner, time.Now()})
	}
	l.Wake()
}
