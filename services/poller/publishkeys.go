package poller

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/event"
)

// maxKeysAtOnce bounds the publishes of one job that are under way together.
// Keys have topics of their own, between which there is no order. A stream with
// replicas takes one at a time, since all expect the same freshness record to be
// the last: it is asked so from the first refusal on.
const maxKeysAtOnce = 8

// keyJob is one event of a key. Whoever put it finds the outcome in it.
type keyJob struct {
	token  string
	event  *event.Event // without a version
	digest digest
	slot   time.Time
	known  held // in and out
	taken  bool // out: the slot holds another value
}

// putKeys publishes the events of a job's keys. The error is the gravest of
// theirs; each job knows what the stream holds then.
func (p *publisher) putKeys(ctx context.Context, j job) error {
	if len(j.keys) == 0 {
		return nil
	}
	atOnce := maxKeysAtOnce
	if p.inTurn.Load() {
		atOnce = 1
	}
	busy, err := p.putKeysOf(ctx, j, j.keys, atOnce)
	if len(busy) > 0 && !grave(err) {
		p.inTurn.Store(true)
		_, again := p.putKeysOf(ctx, j, busy, 1)
		err = graver(err, again)
	}
	return err
}

// putKeysOf publishes keys, so many at once, and returns those for which the
// stream was busy with another one.
func (p *publisher) putKeysOf(ctx context.Context, j job, keys []*keyJob, atOnce int) (busy []*keyJob, worst error) {
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
	case errors.Is(err, errAgain):
		return 1
	case errors.Is(err, errRefused):
		return 2
	case errors.Is(err, errFenced), errors.Is(err, errExpired):
		return 4
	}
	return 3
}

// grave says that the other keys would fare no better.
func grave(err error) bool { return weight(err) >= 2 }

func (p *publisher) putKey(ctx context.Context, j job, k *keyJob) error {
	k.event.Version, k.event.Fence = k.known.version+1, j.tenure.fence
	m := p.names.EventMsg(k.event, k.slot)
	if k.event.Deleted {
		// It goes after a while. What the subject held before must go now, or it
		// would come to light again then.
		m.Header.Set(jetstream.MsgTTLHeader, p.keepDeleted.String())
		m.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	}
	seq, err := p.send(ctx, "event", m, p.names.InFresh(j.topic), j.known.guard, j.tenure)
	switch {
	case errors.Is(err, errDuplicate):
		m, err := p.stored(ctx, seq)
		if err != nil {
			return err
		}
		if k.taken = !k.known.same(m.Event, k.event, k.digest, k.slot, j.ignore); k.taken {
			return errAgain
		}
		k.known.seq = seq
		return nil
	case err != nil:
		return err
	}
	k.known.version, k.known.has = k.event.Version, !k.event.Deleted
	k.known.digest, k.known.slot, k.known.seq = k.digest, k.slot, seq
	return nil
}
