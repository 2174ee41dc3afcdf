package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/services/poller/clock"
)

// A lease is one entry of a KV bucket whose entries vanish when they are not
// renewed for the lease time: who could create the entry of a source polls it.
// The bucket's TTL does that; a TTL of the single key would be lost at the
// first renewal.

// Why a lease is lost.
var (
	// errFenced: another poller has the lease, and has published under it.
	ErrFenced = errors.New("another poller owns the source by now")
	// errExpired: our own lease is over by our clock.
	ErrExpired = errors.New("lease is over")
	// errGiven: the lease was given back for the sake of even shares.
	ErrGiven = errors.New("another poller has fewer sources")
)

// grace is how long a lease that is given back may take to reach NATS.
const giveBackTimeout = 2 * time.Second

// leaseValue is what an entry holds, for people who look.
type Holder struct {
	Owner string    `json:"owner"`
	Host  string    `json:"host"`
	Since time.Time `json:"since"`
	// Why it moved there.
	Why string `json:"why,omitempty"`
}

// lease is this process's view of one source's lease.
type Lease struct {
	kv   jetstream.KeyValue
	key  string
	self Holder // ours, without the time
	ttl  time.Duration
	log  *slog.Logger
	// repair makes the bucket again if it is gone.
	repair func(context.Context) error
	// complain is told when NATS has no room for the lease.
	complain func(error)
	// look wakes whoever waits for or holds the lease: it was released, or NATS
	// came back.
	wake chan struct{}
	// holder is who holds it, as last seen, or nil.
	Holder atomic.Pointer[Holder]
	// gave is who gave it back, and when, if nobody was seen to take it since.
	given     atomic.Pointer[giver]
	group     *Group
	freeSince time.Time // as seen by who waits
}

type giver struct {
	owner string
	at    time.Time
}

// tenure is one time of holding a lease.
type Tenure struct {
	// fence orders the owners of a source: it is higher than any earlier
	// owner's. It is the revision at which the lease was got, unless the stream
	// holds records with as high a fence, because the bucket was made anew.
	Fence      uint64
	revision   uint64
	value      []byte // of the entry
	Start      time.Time
	HandedOver bool         // from another poller that gave it back just now
	Why        string       // it is here
	Ends       atomic.Int64 // nanoseconds after start, by the monotonic clock
}

func (t *Tenure) Valid() bool { return time.Since(t.Start) < time.Duration(t.Ends.Load()) }

// renewed at sent: the server counts from later, so that ours ends first.
func (t *Tenure) Renewed(sent time.Time, ttl time.Duration) {
	t.Ends.Store(int64(sent.Sub(t.Start) + ttl))
}

// prolonged is for a renewal that NATS refused at sent for want of storage:
// until it has some, nobody else can get the lease either. Whoever gets it then
// is seen at the next try.
func (t *Tenure) prolonged(sent time.Time, ttl time.Duration) {
	t.Ends.Store(max(t.Ends.Load(), int64(sent.Sub(t.Start)+ttl/2)))
}

// leaseKey makes a KV key of a source's name, which may hold %XX.
func leaseKey(source string) string { return strings.ReplaceAll(source, "%", "=") }

// lease makes the lease of a source.
func (c *Group) Lease(source string, log *slog.Logger) *Lease {
	return &Lease{
		kv: c.kv, key: leaseKey(source), self: Holder{Owner: c.self.Owner, Host: c.self.Host}, ttl: c.ttl,
		repair: c.repair, complain: c.complain, log: log, wake: make(chan struct{}, 1), group: c,
	}
}

// valueOf reads an entry.
func valueOf(entry []byte) Holder {
	var v Holder
	if err := json.Unmarshal(entry, &v); err != nil || v.Owner == "" {
		return Holder{Owner: "unknown"}
	}
	return v
}

func (l *Lease) ours(entry []byte) bool { return valueOf(entry).Owner == l.self.Owner }

func (l *Lease) Poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// acquire waits until the lease is ours. The error is ctx's.
func (l *Lease) Acquire(ctx context.Context) (*Tenure, error) {
	var quick int // tries left that follow a poke closely
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
			l.log.Debug("lease cannot be asked for", "error", errors.Join(err, l.repair(ctx)))
		}
		wait := l.ttl/3 - rand.N(l.ttl/10)
		if l.orphaned() {
			wait = l.ttl / 10 // it ends any moment
		}
		if quick > 0 {
			// The word that a lease is released may come before the fact.
			quick--
			wait = 50 * time.Millisecond
		}
		if left > 0 {
			wait = min(wait, left)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-l.wake:
			quick = 3
		case <-time.After(wait):
		}
	}
}

// withdraw gives back what an interrupted try may have got.
func (l *Lease) withdraw(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(giveBackTimeout, l.ttl/3))
	defer cancel()
	if entry, err := l.kv.Get(ctx, l.key); err == nil && l.ours(entry.Value()) {
		_ = l.kv.Delete(ctx, l.key, jetstream.LastRevision(entry.Revision())) // or it ends by itself
	}
}

// try asks for the lease once. Without an error and a tenure, somebody else
// has it.
func (l *Lease) try(ctx context.Context) (*Tenure, error) {
	ctx, cancel := context.WithTimeout(ctx, l.ttl/3)
	defer cancel()
	t := &Tenure{Start: time.Now()}
	mine := l.self
	mine.Since, mine.Why = clock.Stamp(t.Start), l.reason(t)
	var err error
	if t.value, err = json.Marshal(mine); err != nil {
		return nil, fmt.Errorf("encode lease: %w", err)
	}
	t.revision, err = l.kv.Create(ctx, l.key, t.value)
	if errors.Is(err, jetstream.ErrKeyExists) {
		entry, err := l.kv.Get(ctx, l.key)
		if err != nil {
			if errors.Is(err, jetstream.ErrKeyNotFound) {
				err = nil // gone in between
			}
			return nil, err
		}
		if !l.ours(entry.Value()) {
			l.seeHolder(entry.Value())
			return nil, nil
		}
		// Ours, but its acknowledgement was lost.
		if t.revision, err = l.kv.Update(ctx, l.key, t.value, entry.Revision()); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	t.Fence = t.revision
	t.Renewed(t.Start, l.ttl)
	l.seeHolder(t.value)
	return t, nil
}

func (l *Lease) seeHolder(value []byte) {
	v := valueOf(value)
	if v.Owner != l.self.Owner {
		// Word that it is given back comes a little before the fact.
		if g := l.given.Load(); g != nil && (g.owner != v.Owner || time.Since(g.at) > handing) {
			l.given.Store(nil)
		}
		l.group.taken(l.key)
	}
	if old := l.Holder.Swap(&v); (old == nil || old.Owner != v.Owner) && v.Owner != l.self.Owner {
		l.log.Info("another poller owns the source", "owner", v.Owner, "since", v.Since)
	}
}

// hold renews the lease until ctx ends, and returns nil then; otherwise why
// the lease is lost.
func (l *Lease) Hold(ctx context.Context, t *Tenure) error {
	wait := l.ttl / 3
	for {
		left := time.Duration(t.Ends.Load()) - time.Since(t.Start)
		if left <= 0 {
			return fmt.Errorf("not renewed for %v: %w", l.ttl, ErrExpired)
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
		wait = l.ttl / 3
		sent := time.Now()
		switch err := l.renew(ctx, t); {
		case errors.Is(err, ErrFenced):
			return err
		case noRoom(err):
			wait = l.ttl / 10
			t.prolonged(sent, l.ttl)
			l.complain(err)
		case err != nil:
			wait = l.ttl / 10
			l.log.Debug("lease not renewed yet", "error", errors.Join(err, l.mend(ctx, t)))
		}
	}
}

// mend makes the bucket again if it is gone. The end of the lease must not wait
// for that.
func (l *Lease) mend(ctx context.Context, t *Tenure) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(t.Ends.Load())-time.Since(t.Start))
	defer cancel()
	return l.repair(ctx)
}

// renew extends the lease once. It returns errFenced when it is another's.
func (l *Lease) renew(ctx context.Context, t *Tenure) error {
	sent := time.Now()
	ctx, cancel := context.WithTimeout(ctx, min(l.ttl/3, time.Duration(t.Ends.Load())-time.Since(t.Start)))
	defer cancel()
	revision, err := l.kv.Update(ctx, l.key, t.value, t.revision)
	if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		revision, err = l.reclaim(ctx, t.value)
	}
	if err != nil {
		return err
	}
	t.revision = revision
	t.Renewed(sent, l.ttl)
	return nil
}

// reclaim renews a lease whose entry is not the one that was last written. It
// is still ours if only the acknowledgement of a renewal was lost, and if
// nobody took it when the bucket was made anew. (Somebody who took it and gave
// it back meanwhile has published under a higher fence, and the stream refuses
// what comes under ours.)
func (l *Lease) reclaim(ctx context.Context, value []byte) (revision uint64, err error) {
	entry, err := l.kv.Get(ctx, l.key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		revision, err = l.kv.Create(ctx, l.key, value)
	case err != nil:
	case l.ours(entry.Value()):
		revision, err = l.kv.Update(ctx, l.key, value, entry.Revision())
	default:
		l.seeHolder(entry.Value())
		return 0, ErrFenced
	}
	return revision, err
}

// release gives the lease to whoever waits for it. If NATS does not take it,
// the lease ends by itself.
func (l *Lease) Release(ctx context.Context, t *Tenure) error {
	l.Holder.Store(nil)
	l.group.drop(l.key)
	err := l.kv.Delete(ctx, l.key, jetstream.LastRevision(t.revision))
	for errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		// A renewal was cut short by the stop, and is stored all the same. A replica
		// that lags behind may not know it yet.
		entry, lost := l.kv.Get(ctx, l.key)
		if lost != nil || !l.ours(entry.Value()) {
			break
		}
		if entry.Revision() == t.revision {
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
				continue
			}
			break
		}
		t.revision = entry.Revision()
		err = l.kv.Delete(ctx, l.key, jetstream.LastRevision(t.revision))
	}
	if err != nil {
		return fmt.Errorf("release lease of %s: %w", l.key, err)
	}
	return nil
}

// noRoom says that NATS refused a message because it has no storage left for
// any message.
func noRoom(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && slices.Contains([]jetstream.ErrorCode{
		10002, // JSAccountResourcesExceededErr
		10023, // JSInsufficientResourcesErr
		10047, // JSStorageResourcesExceededErr
	}, api.ErrorCode)
}
