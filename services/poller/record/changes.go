package record

import (
	"context"
	"errors"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/services/poller/lease"
)

// maxAtOnce bounds the changes of one job that are under way together. Their topics
// differ, and between topics there is no order. A stream with replicas takes one at a
// time, since all expect the same freshness record to be the last: from the first
// refusal on the publisher sends them one after the other.
const maxAtOnce = 8

// putChanges publishes the changes of a job. The error is the gravest of theirs. Each
// change knows what the stream holds then.
func (p *Publisher) putChanges(ctx context.Context, j Job) error {
	if len(j.Changes) == 1 {
		return p.putChange(ctx, j, j.Changes[0])
	}
	atOnce := maxAtOnce
	if p.oneAtATime.Load() {
		atOnce = 1
	}
	busy, err := p.putTogether(ctx, j, j.Changes, atOnce)
	if len(busy) > 0 && !grave(err) {
		p.oneAtATime.Store(true)
		_, again := p.putTogether(ctx, j, busy, 1)
		err = graver(err, again)
	}
	return err
}

// putTogether publishes changes, at most atOnce at a time. It returns those for which
// the stream was busy with another one.
func (p *Publisher) putTogether(
	ctx context.Context, j Job, changes []*Change, atOnce int,
) (busy []*Change, worst error) {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		next int
	)
	for range min(atOnce, len(changes)) {
		wg.Go(func() {
			for {
				mu.Lock()
				if next == len(changes) || grave(worst) {
					mu.Unlock()
					return
				}
				c := changes[next]
				next++
				mu.Unlock()
				err := p.putChange(ctx, j, c)
				mu.Lock()
				if atOnce > 1 && errors.Is(err, errBusy) {
					busy = append(busy, c)
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

// putChange publishes one change.
func (p *Publisher) putChange(ctx context.Context, j Job, c *Change) error {
	c.Event.Version, c.Event.Fence = c.Known.Version+1, j.Tenure.Fence
	m := p.Names.EventMsg(c.Event, c.Slot)
	if c.Event.Deleted {
		// The deletion goes after a while. What the subject held before must go now,
		// or it would be the last message again then.
		m.Header.Set(jetstream.MsgTTLHeader, p.KeepDeleted.String())
		m.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	}
	seq, err := p.send(ctx, "event", m, p.Names.InFresh(j.Topic), j.Known.Guard, j.Tenure)
	switch {
	case errors.Is(err, errDuplicate):
		stored, err := p.storedAt(ctx, seq)
		if err != nil {
			return err
		}
		if c.Taken = !c.Known.recognises(stored.Event, c, j.Ignore); c.Taken {
			return ErrSlotTaken
		}
		c.Known.seq = seq
		return nil
	case err != nil:
		return err
	}
	c.Known = Copy{Version: c.Event.Version, Digest: c.Digest, Slot: c.Slot, Has: !c.Event.Deleted, seq: seq}
	return nil
}

// graver is the one of two errors that weighs more.
func graver(a, b error) error {
	if weight(b) > weight(a) {
		return b
	}
	return a
}

// weight orders errors. Those that end the tenure weigh most.
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

// grave says that the other changes would fare no better.
func grave(err error) bool { return weight(err) >= 2 }
