package lease

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// How a lease is asked for, with regard to the other pollers (replicas.go), and
// what is heard of it.

// handing bounds how long after the word that a lease is given back it counts as
// handed over.
const handing = 2 * time.Second

// tryInTurn asks for the lease once, unless it should be left to another poller
// for a time, which it returns.
func (l *Lease) tryInTurn(ctx context.Context) (t *Tenure, left time.Duration, err error) {
	wait := l.group.claim(l.key, 0)
	if wait > 0 {
		free, err := l.free(ctx)
		if !free || err != nil {
			l.freeSince = time.Time{}
			return nil, 0, err
		}
		if l.freeSince.IsZero() {
			l.freeSince = time.Now()
		}
		if wait = l.group.claim(l.key, time.Since(l.freeSince)); wait > 0 {
			return nil, wait - time.Since(l.freeSince), nil
		}
	}
	l.freeSince = time.Time{}
	if t, err = l.try(ctx); t == nil {
		l.group.drop(l.key)
	} else {
		l.given.Store(nil)
		l.group.got(l.key)
	}
	return t, 0, err
}

// free looks whether somebody holds the lease. One that ran out makes its last
// holder suspect.
func (l *Lease) free(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, l.ttl/3)
	defer cancel()
	entry, err := l.kv.Get(ctx, l.key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		if h := l.Holder.Load(); h != nil && l.given.Load() == nil {
			l.group.suspect(h.Owner)
		}
		return true, nil
	case err != nil:
		return false, err
	case l.ours(entry.Value()): // of a try whose answer was lost
		return true, nil
	}
	l.seeHolder(entry.Value())
	return false, nil
}

// orphaned says that the lease's holder has gone without giving it back.
func (l *Lease) orphaned() bool {
	h := l.Holder.Load()
	return h != nil && l.given.Load() == nil && !l.group.knows(h.Owner)
}

// reason says why the lease is free, if it is, and whether its last holder gave
// it to a new tenure just now.
func (l *Lease) reason(t *Tenure) string {
	t.Why = "nobody held it"
	h, g := l.Holder.Load(), l.given.Load()
	switch {
	case g != nil:
		t.Why = g.owner + " gave it back"
		t.HandedOver = t.Start.Sub(g.at) < handing
	case h != nil && h.Owner != l.self.Owner:
		t.Why = h.Owner + " did not renew it"
	}
	return t.Why
}

// listen subscribes to the bucket of the leases, so that one that is given
// back moves at once, and pollers know of each other. What is heard of leases is
// only a hint, as the subject carries also what the bucket refuses, such as the
// tries of all who wait: who holds one is in the bucket alone.
func (c *Group) Listen(nc *nats.Conn, bucket string) error {
	prefix := "$KV." + bucket + "."
	_, err := nc.Subscribe(prefix+">", func(m *nats.Msg) {
		key, deleted := strings.TrimPrefix(m.Subject, prefix), m.Header.Get("KV-Operation") != ""
		if strings.HasPrefix(key, presencePrefix) {
			c.hear(m, deleted)
			return
		}
		for _, r := range c.list() {
			if l := r.Lease(); deleted && l != nil && l.key == key && !r.Owned() {
				l.hearReleased()
			}
		}
	})
	if err != nil {
		return errors.Join(errors.New("watch leases"), err)
	}
	return nil
}

// hearReleased: its holder has probably given the lease back.
func (l *Lease) hearReleased() {
	if h := l.Holder.Load(); h != nil && h.Owner != l.self.Owner {
		l.given.Store(&giver{h.Owner, time.Now()})
	}
	l.Poke()
}
