package record

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/lease"
)

// PublishTimeout bounds one message's way into the stream, and one answer out of it.
const PublishTimeout = 5 * time.Second

// headerRoom is the part of NATS's max_payload that is left for headers, in bytes.
const headerRoom = 8 << 10

// Publisher puts records into the stream. Its methods may be called from several
// goroutines, but of one poll only one Put may be under way.
type Publisher struct {
	Places
	Conn    *bus.Conn
	Names   bus.Names
	Metrics *Metrics
	Repair  func(context.Context) error // makes the stream again if it is gone
	Timeout time.Duration               // of one message; 0: PublishTimeout
	// KeepDeleted is how long the stream holds deletions.
	KeepDeleted time.Duration
	// oneAtATime: the stream was busy with one change when another one came.
	oneAtATime atomic.Bool
}

// MaxPayload is the longest value that NATS takes, in bytes, with room for the
// headers; 0 while that is not known. A value of more than that, of size bytes,
// has NATS asked whether its limit was changed.
func (p *Publisher) MaxPayload(size int) int64 {
	most := p.Conn.MaxPayload() - headerRoom
	if most <= 0 {
		return 0
	}
	if int64(size) > most {
		p.Conn.LearnLimits()
	}
	return most
}

// Put does a job and returns what the stream holds then. With ErrAgain, too, that is
// worth keeping. Other errors are lease.ErrFenced, lease.ErrExpired, and those of NATS.
func (p *Publisher) Put(ctx context.Context, j Job) (State, error) {
	if j.Fence != nil {
		return p.fence(ctx, j)
	}
	st := j.Known
	err := p.putSteps(ctx, j)
	if err == nil {
		err = p.putChanges(ctx, j)
	}
	switch {
	case errors.Is(err, errRefused):
		return p.reread(ctx, j)
	case errors.Is(err, ErrAgain):
		return st, err
	case err != nil:
		return st.unknown(), err
	}
	if j.Fresh == nil {
		return st, nil
	}
	if err := p.putFresh(ctx, j, j.Fresh, &st); errors.Is(err, errRefused) {
		return p.reread(ctx, j)
	} else if err != nil {
		return st, err
	}
	return st, nil
}

// putSteps publishes the steps of a job, one after the other.
func (p *Publisher) putSteps(ctx context.Context, j Job) error {
	version := j.Version
	for _, s := range j.Steps {
		s.Event.Version, s.Event.Fence = version+1, j.Tenure.Fence
		m := p.Names.EventMsg(s.Event, j.Slot)
		switch _, err := p.send(ctx, "event", m, p.Names.InFresh(j.Topic), j.Known.Guard, j.Tenure); {
		case errors.Is(err, errDuplicate):
			return errRefused // the stream has to be read
		case err != nil:
			return err
		}
		s.Stored, version = true, s.Event.Version
	}
	return nil
}

// putFresh publishes a freshness record.
func (p *Publisher) putFresh(ctx context.Context, j Job, f *event.Freshness, st *State) error {
	f.Fence = j.Tenure.Fence
	m, err := p.Names.FreshMsg(f, j.Place, j.Circuits...)
	if err != nil {
		return err
	}
	seq, err := p.send(ctx, "freshness", m, p.Names.InFresh(j.Topic), st.Guard, j.Tenure)
	switch {
	case errors.Is(err, errDuplicate) && seq > st.Guard: // stored, and its acknowledgement was lost
	case err != nil:
		// If it is stored all the same, the next record is refused.
		return err
	}
	st.Guard, st.Fresh, st.Circuits, st.Sync = seq, f, j.Circuits, max(st.Sync, Fenced)
	return nil
}

// PutBreaker publishes a transition, and what the circuits of the source are now.
// guard is the sequence number of the last transition; PutBreaker returns that of the
// one which is last now.
func (p *Publisher) PutBreaker(
	ctx context.Context, b *event.Breaker, guard uint64, t *lease.Tenure, circuits ...event.Circuit,
) (uint64, error) {
	b.Fence = t.Fence
	m, err := p.Names.BreakerMsg(b, circuits...)
	if err != nil {
		return guard, err
	}
	seq, err := p.send(ctx, "breaker", m, m.Subject, guard, t)
	switch {
	case err == nil, errors.Is(err, errDuplicate):
		return seq, nil
	case !errors.Is(err, errRefused):
		return guard, err
	}
	last, err := p.Last(ctx, m.Subject)
	if err != nil {
		return guard, err
	}
	if last.Breaker != nil && last.Breaker.Fence > t.Fence {
		return guard, lease.ErrFenced
	}
	return last.Seq, ErrAgain
}

// send puts one message into the stream, unless the lease is over. The stream takes it
// if expect is the sequence number of the last message on the subject guard. kind is
// for the metrics. The sequence number that send returns is that of the message or,
// with errDuplicate, of the one stored under the same id.
func (p *Publisher) send(
	ctx context.Context, kind string, m *nats.Msg, guard string, expect uint64, t *lease.Tenure,
) (uint64, error) {
	if !t.Valid() {
		return 0, lease.ErrExpired
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(p.Timeout, PublishTimeout))
	defer cancel()
	start := time.Now()
	ack, err := p.Conn.JetStream().PublishMsg(ctx, m, jetstream.WithExpectLastSequenceForSubject(expect, guard))
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		switch api.ErrorCode {
		case jetstream.JSErrCodeStreamWrongLastSequence:
			p.Conn.Stored()
			return 0, errRefused
		case jetstream.JSErrCodeStreamWrongLastSequenceConstant:
			return 0, errBusy
		}
	}
	if err != nil {
		p.Conn.NotStored(start, err)
		p.Metrics.failed(kind)
		if errors.Is(err, jetstream.ErrNoStreamResponse) {
			err = errors.Join(err, p.Repair(ctx))
		}
		return 0, fmt.Errorf("publish %s of %s: %w", kind, m.Subject, err)
	}
	p.Conn.Stored()
	if ack.Duplicate {
		return ack.Sequence, errDuplicate
	}
	p.Metrics.published(kind, time.Since(start))
	return ack.Sequence, nil
}
