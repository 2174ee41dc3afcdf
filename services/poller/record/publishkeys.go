package record

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/lease"
)

// maxKeysAtOnce bounds the publishes of one job that are under way together.
// Keys have topics of their own, between which there is no order. A stream with
// replicas takes one at a time, since all expect the same freshness record to be
// the last: it is asked so from the first refusal on.
const maxKeysAtOnce = 8

// keyJob is one event of a key. Whoever put it finds the outcome in it.
type KeyJob struct {
	Token  string
	Event  *event.Event // without a version
	Digest jq.Digest
	Slot   time.Time
	Known  Held // in and out
	Taken  bool // out: the slot holds another value
}

// putKeys publishes the events of a job's keys. The error is the gravest of
// theirs; each job knows what the stream holds then.
func (p *Publisher) putKeys(ctx context.Context, j Job) error {
	if len(j.Keys) == 0 {
		return nil
	}
	atOnce := maxKeysAtOnce
	if p.oneAtATime.Load() {
		atOnce = 1
	}
	busy, err := p.putKeysOf(ctx, j, j.Keys, atOnce)
	if len(busy) > 0 && !grave(err) {
		p.oneAtATime.Store(true)
		_, again := p.putKeysOf(ctx, j, busy, 1)
		err = graver(err, again)
	}
	return err
}

// putKeysOf publishes keys, so many at once, and returns those for which the
// stream was busy with another one.
func (p *Publisher) putKeysOf(ctx context.Context, j Job, keys []*KeyJob, atOnce int) (busy []*KeyJob, worst error) {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		next int
	)
	for range min(atOnce, len(keys)) {
		wg.Go(func() {
			for {
				mu.Lock()
				if next == len(keys) || grave(worst) {
					mu.Unlock()
					return
				}
				k := keys[next]
				next++
				mu.Unlock()
				err := p.putKey(ctx, j, k)
				mu.Lock()
				if atOnce > 1 && errors.Is(err, errBusy) {
					busy = append(busy, k)
				} else {
					worst = graver(worst, err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return busy, worst
}

// graver is the one of two errors that weighs more.
func graver(a, b error) error {
	if weight(b) > weight(a) {
		return b
	}
	return a
}

// weight orders errors; those that end the tenure weigh most.
func weight(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrAgain):
		return 1
	case errors.Is(err, errRefused):
		return 2
	case errors.Is(err, lease.ErrFenced), errors.Is(err, lease.ErrExpired):
		return 4
	}
	return 3
}

// grave says that the other keys would fare no better.
func grave(err error) bool { return weight(err) >= 2 }

func (p *Publisher) putKey(ctx context.Context, j Job, k *KeyJob) error {
	k.Event.Version, k.Event.Fence = k.Known.Version+1, j.Tenure.Fence
	m := p.Names.EventMsg(k.Event, k.Slot)
	if k.Event.Deleted {
		// It goes after a while. What the subject held before must go now, or it
		// would come to light again then.
		m.Header.Set(jetstream.MsgTTLHeader, p.KeepDeleted.String())
		m.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	}
	seq, err := p.send(ctx, "event", m, p.Names.InFresh(j.Topic), j.Known.Guard, j.Tenure)
	switch {
	case errors.Is(err, errDuplicate):
		m, err := p.storedAt(ctx, seq)
		if err != nil {
			return err
		}
		if k.Taken = !k.Known.same(m.Event, k.Event, k.Digest, k.Slot, j.Ignore); k.Taken {
			return ErrAgain
		}
		k.Known.seq = seq
		return nil
	case err != nil:
		return err
	}
	k.Known.Version, k.Known.Has = k.Event.Version, !k.Event.Deleted
	k.Known.Digest, k.Known.Slot, k.Known.seq = k.Digest, k.Slot, seq
	return nil
}
