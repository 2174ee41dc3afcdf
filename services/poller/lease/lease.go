package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// The poller that could create the entry of a source holds its lease. The TTL of the
// bucket removes an entry that is not renewed. A TTL of the single key would be lost
// at the first renewal.

const (
	// releaseTimeout bounds how long the release of a lease may take.
	releaseTimeout = 2 * time.Second
	// retryPause is the pause before a call is repeated because the bucket may not
	// know yet what it is about to know.
	retryPause = 50 * time.Millisecond
	// quickTries is how many tries follow closely after a Wake. The message that a
	// lease is released may come before the bucket knows it.
	quickTries = 3
)

// Lease is what this poller knows of one source's lease. Acquire, Hold and Release
// belong to one goroutine, one call after another. Wake and Holder may be called by
// any goroutine.
type Lease struct {
	group *Group
	key   string // of the entry
	log   *slog.Logger
	wake  chan struct{} // capacity 1; ends a pause of Acquire or Hold

	holder    atomic.Pointer[Holder]  // as last seen; nil after Release and before the first look
	releaser  atomic.Pointer[release] // nil once another poller was seen to take the lease
	freeSince time.Time               // when Acquire first saw it free; zero while it is held
}

// release is the news that a holder gave its lease back.
type release struct {
	owner string
	at    time.Time
}

// entryKey makes the key of an entry from a source's name, which may hold %XX.
func entryKey(source string) string { return strings.ReplaceAll(source, "%", "=") }

// Holder returns the holder of the lease as last seen, or false if none is known.
func (l *Lease) Holder() (Holder, bool) {
	h := l.holder.Load()
	if h == nil {
		return Holder{}, false
	}
	return *h, true
}

// Wake ends a pause of Acquire or Hold: the lease was released, or NATS came back.
func (l *Lease) Wake() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// ours reports whether this poller may overwrite an entry: one that names this poller,
// or one that is not valid, which no poller wrote.
func (l *Lease) ours(entry []byte) bool {
	owner := decodeHolder(entry).Owner
	if owner == unknown {
		l.log.Warn("somebody who is no poller wrote on the lease; it is ignored", "bytes", len(entry))
	}
	return owner == unknown || owner == l.group.self.Owner
}

// Acquire waits until this poller holds the lease. The only error is ctx's.
func (l *Lease) Acquire(ctx context.Context) (*Tenure, error) {
	ttl := l.group.ttl
	quick := 0
	for {
		t, left, err := l.tryInTurn(ctx)
		if t != nil {
			return t, nil
		}
		if ctx.Err() != nil {
			if err != nil {
				l.withdraw(ctx)
			}
			return nil, ctx.Err()
		}
		if err != nil {
			l.log.Debug("lease not asked for yet", "error", errors.Join(err, l.group.repair(ctx)))
		}
		wait := ttl/3 - rand.N(ttl/10)
		if l.orphaned() {
			wait = ttl / 10 // it ends at any moment
		}
		if quick > 0 {
			quick--
			wait = retryPause
		}
		if left > 0 {
			wait = min(wait, left)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-l.wake:
			quick = quickTries
		case <-time.After(wait):
		}
	}
}

// withdraw gives back what a try may have got before ctx interrupted it.
func (l *Lease) withdraw(ctx context.Context) {
	kv, ttl := l.group.kv, l.group.ttl
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(releaseTimeout, ttl/3))
	defer cancel()
	if entry, err := kv.Get(ctx, l.key); err == nil && l.ours(entry.Value()) {
		_ = kv.Delete(ctx, l.key, jetstream.LastRevision(entry.Revision())) // if this fails, the entry expires
	}
}

// Hold renews the lease until ctx ends, and returns nil then. Otherwise it returns why
// the lease is lost: an error that wraps ErrFenced or ErrExpired.
func (l *Lease) Hold(ctx context.Context, t *Tenure) error {
	ttl := l.group.ttl
	wait := ttl / 3
	for {
		left := t.left()
		if left <= 0 {
			return fmt.Errorf("not renewed for %v: %w", ttl, ErrExpired)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-l.wake:
		case <-time.After(min(wait, left)):
		}
		if !t.Valid() {
			continue
		}
		wait = ttl / 3
		sent := time.Now()
		switch err := l.renew(ctx, t); {
		case errors.Is(err, ErrFenced):
			return err
		case noStorage(err):
			wait = ttl / 10
			t.prolong(sent, ttl)
			l.group.complain(err)
		case err != nil:
			wait = ttl / 10
			l.log.Debug("lease not renewed yet", "error", errors.Join(err, l.repairBucket(ctx, t)))
		}
	}
}

// repairBucket creates the bucket again if it is gone. It stops when the lease ends,
// because Hold must notice that in time.
func (l *Lease) repairBucket(ctx context.Context, t *Tenure) error {
	ctx, cancel := context.WithTimeout(ctx, t.left())
	defer cancel()
	return l.group.repair(ctx)
}

// renew extends the lease once. It returns ErrFenced when another poller holds it.
func (l *Lease) renew(ctx context.Context, t *Tenure) error {
	sent := time.Now()
	ctx, cancel := context.WithTimeout(ctx, min(l.group.ttl/3, t.left()))
	defer cancel()
	revision, err := l.group.kv.Update(ctx, l.key, t.entry, t.revision)
	if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		revision, err = l.reclaim(ctx, t.entry)
	}
	if err != nil {
		return err
	}
	t.revision = revision
	t.Renewed(sent, l.group.ttl)
	return nil
}

// reclaim renews a lease whose entry has another revision than the one that was last
// written. The lease is still ours if only the acknowledgement of a renewal was lost,
// or if the bucket was created again and no poller has taken the lease since. A poller
// that took it and gave it back meanwhile has published under a higher fence; then the
// stream refuses our records.
func (l *Lease) reclaim(ctx context.Context, value []byte) (revision uint64, err error) {
	kv := l.group.kv
	entry, err := kv.Get(ctx, l.key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		revision, err = kv.Create(ctx, l.key, value)
	case err != nil:
	case l.ours(entry.Value()):
		revision, err = kv.Update(ctx, l.key, value, entry.Revision())
	default:
		l.noteHolder(entry.Value())
		return 0, ErrFenced
	}
	return revision, err
}

// Release gives the lease back, so that another poller can take it at once. With an
// error, the lease expires, or another poller has it already.
func (l *Lease) Release(ctx context.Context, t *Tenure) error {
	kv := l.group.kv
	l.holder.Store(nil)
	l.group.shares.drop(l.key)
	err := kv.Delete(ctx, l.key, jetstream.LastRevision(t.revision))
	for errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		// The stop interrupted a renewal that the bucket stored all the same. A replica
		// of the bucket may not know of it yet.
		entry, getErr := kv.Get(ctx, l.key)
		if getErr != nil || !l.ours(entry.Value()) {
			break
		}
		if entry.Revision() == t.revision {
			select {
			case <-ctx.Done():
			case <-time.After(retryPause):
				continue
			}
			break
		}
		t.revision = entry.Revision()
		err = kv.Delete(ctx, l.key, jetstream.LastRevision(t.revision))
	}
	if err != nil {
		return fmt.Errorf("release lease of %s: %w", l.key, err)
	}
	return nil
}

// noStorage reports whether NATS refused a message because it has no storage left for
// any message.
func noStorage(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && slices.Contains([]jetstream.ErrorCode{
		10002, // JSAccountResourcesExceededErr
		10023, // JSInsufficientResourcesErr
		10047, // JSStorageResourcesExceededErr
	}, api.ErrorCode)
}
