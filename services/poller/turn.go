package poller

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
func (l *lease) tryInTurn(ctx context.Context) (t *tenure, left time.Duration, err error) {
	wait := l.crew.claim(l.key, 0)
	if wait > 0 {
		free, err := l.free(ctx)
		if !free || err != nil {
			l.freeSince = time.Time{}
			return nil, 0, err
		}
		if l.freeSince.IsZero() {
			l.freeSince = time.Now()
		}
		if wait = l.crew.claim(l.key, time.Since(l.freeSince)); wait > 0 {
			return nil, wait - time.Since(l.freeSince), nil
		}
	}
	l.freeSince = time.Time{}
	if t, err = l.try(ctx); t == nil {
		l.crew.drop(l.key)
	} else {
		l.gave.Store(nil)
		l.crew.got(l.key)
	}
	return t, 0, err
}

// free looks whether somebody holds the lease. One that ran out makes its last
// holder suspect.
func (l *lease) free(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, l.ttl/3)
	defer cancel()
	entry, err := l.kv.Get(ctx, l.key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		if h := l.holder.Load(); h != nil && l.gave.Load() == nil {
			l.crew.suspect(h.Owner)
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
func (l *lease) orphaned() bool {
	h := l.holder.Load()
	return h != nil && l.gave.Load() == nil && !l.crew.knows(h.Owner)
}

// reason says why the lease is free, if it is, and whether its last holder gave
// it to a new tenure just now.
func (l *lease) reason(t *tenure) string {
	t.why = "nobody held it"
	h, g := l.holder.Load(), l.gave.Load()
	switch {
	case g != nil:
		t.why = g.owner + " gave it back"
		t.handed = t.start.Sub(g.at) < handing
	case h != nil && h.Owner != l.self.Owner:
		t.why = h.Owner + " did not renew it"
	}
	return t.why
}

// listen subscribes to the bucket of the leases, so that one that is given
// back moves at once, and pollers know of each other. What is heard of leases is
// only a hint, as the subject carries also what the bucket refuses, such as the
// tries of all who wait: who holds one is in the bucket alone.
func (c *replicas) listen(nc *nats.Conn, bucket string) error {
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
func (l *lease) hearReleased() {
	if h := l.holder.Load(); h != nil && h.Owner != l.self.Owner {
		l.gave.Store(&giver{h.Owner, time.Now()})
	}
	l.poke()
}
