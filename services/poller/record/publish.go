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
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/lease"
)

// How a poll's records reach the stream, once each and from one poller only:
//
// Every message, event or freshness record, carries the sequence number of the
// poll's last freshness record as an expected one (Nats-Expected-Last-Subject-
// Sequence, with -Subject naming the record's subject). A new owner of the
// source publishes a freshness record before anything else, so that whatever
// an older owner sends later is refused, even if it was under way for minutes.
// A check of the event's own subject would not do that while the value stands
// still. Only then it reads what the stream holds, and only after that it
// publishes an event: what it read before may lack what the older owner stored
// last (takeover.go). Within one owner, a poll publishes one message at a time.
// When an event's acknowledgement does not come, it may still be stored, at any
// time: the owner then begins anew, as if it were another.

// publishTimeout bounds one message's way into the stream.
const PublishTimeout = 5 * time.Second

// What came in between when a record could not be published.
var (
	// errAgain: the stream held something else than was known; what is returned
	// with it is known now, and the record is to be made anew.
	ErrAgain = errors.New("stream has moved on")
	// errSlotTaken: an event of the same slot is stored, with another value.
	ErrSlotTaken = errors.New("an event of this slot is stored already")

	errRefused = errors.New("refused by the expected sequence")
	// errBusy: the stream is replicated, and takes one message at a time under
	// the same expected sequence; another one of ours is on its way.
	errBusy      = fmt.Errorf("%w: another message is on its way", errRefused)
	errDuplicate = errors.New("stored already")
)

// job is one thing for a poll to say: an event, its freshness, or both, in this
// order, so that no freshness record confirms a value that is not stored.
type Job struct {
	Topic  string
	Ignore []jq.Path
	Event  *event.Event // without a version; or nil
	Digest jq.Digest    // of the event
	Slot   time.Time
	Keys   []*KeyJob
	Steps  []*Step
	Fence  *event.Freshness // nil, or to be published before anything else, and the stream read after it
	Keyed  bool             // that reading is of keys, too
	Fresh  *event.Freshness // or nil
	// circuits are those of the source when fresh was made.
	Circuits []event.Circuit
	Place    *event.Place // of a walk when fresh was made
	AsOf     time.Time    // which event and fresh tell of
	Known    Stored
	Tenure   *lease.Tenure
	Sort     func(Recovered) Recovered // or nil
}

// publisher puts records into the stream.
type Publisher struct {
	Conn    *bus.Conn
	Names   bus.Names
	Places  Places
	Metrics *Metrics
	Repair  func(context.Context) error // makes the stream again if it is gone
	Timeout time.Duration               // of one message; 0: publishTimeout
	// keepDeleted is how long the stream holds deletions.
	KeepDeleted time.Duration
	// inTurn: the stream was busy with one key's event when another one came.
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

const headerRoom = 8 << 10

// put does a job and returns what the stream holds then. With errAgain and
// errSlotTaken that is worth keeping too.
func (p *Publisher) Put(ctx context.Context, j Job) (Stored, error) {
	st := j.Known
	if j.Fence != nil {
		return p.takeOver(ctx, j)
	}
	if j.Event != nil {
		j.Event.Version, j.Event.Fence = st.Version+1, j.Tenure.Fence
		seq, err := p.send(ctx, "event", p.Names.EventMsg(j.Event, j.Slot), p.Names.InFresh(j.Topic), st.Guard, j.Tenure)
		switch {
		case errors.Is(err, errDuplicate):
			return p.duplicate(ctx, j, seq)
		case errors.Is(err, errRefused):
			return p.reread(ctx, j)
		case err != nil:
			return st.unknown(), err
		}
		st.Version, st.Digest, st.Slot, st.Has, st.seq = j.Event.Version, j.Digest, j.Slot, true, seq
	}
	switch err := p.putSteps(ctx, j, &st); {
	case errors.Is(err, errDuplicate), errors.Is(err, errRefused):
		return p.reread(ctx, j)
	case err != nil:
		return st.unknown(), err
	}
	switch err := p.putKeys(ctx, j); {
	case errors.Is(err, errRefused):
		return p.reread(ctx, j)
	case errors.Is(err, ErrAgain):
		return st, err
	case err != nil:
		return st.unknown(), err
	}
	if j.Fresh != nil {
		if err := p.putFresh(ctx, j, j.Fresh, &st); errors.Is(err, errRefused) {
			return p.reread(ctx, j)
		} else if err != nil {
			return st, err
		}
	}
	return st, nil
}

// putFresh publishes a freshness record.
func (p *Publisher) putFresh(ctx context.Context, j Job, f *event.Freshness, st *Stored) error {
	f.Fence = j.Tenure.Fence
	m, err := p.Names.FreshMsg(f, j.Place, j.Circuits...)
	if err != nil {
		return err
	}
	seq, err := p.send(ctx, "freshness", m, p.Names.InFresh(j.Topic), st.Guard, j.Tenure)
	switch {
	case errors.Is(err, errRefused):
		return err
	case errors.Is(err, errDuplicate) && seq > st.Guard: // our own, whose acknowledgement was lost
	case err != nil:
		// If it is stored all the same, the next one is refused.
		return err
	}
	st.Guard, st.Fresh, st.Circuits, st.Fenced = seq, f, j.Circuits, true
	return nil
}

// putBreaker publishes a transition, and what the circuits of the source are
// now; guard is the sequence number of the last one.
func (p *Publisher) PutBreaker(ctx context.Context, b *event.Breaker, guard uint64, t *lease.Tenure, circuits ...event.Circuit) (uint64, error) {
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

// send puts one message into the stream, unless the lease is over. kind is for
// the metrics. The sequence number is that of the message, or, with
// errDuplicate, of the one stored under the same id.
func (p *Publisher) send(ctx context.Context, kind string, m *nats.Msg, guard string, expect uint64, t *lease.Tenure) (uint64, error) {
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
			return 0, errRefused
		case jetstream.JSErrCodeStreamWrongLastSequenceConstant:
			return 0, errBusy
		}
	}
	if err != nil {
		p.Metrics.publishErrors.WithLabelValues(kind).Inc()
		if errors.Is(err, jetstream.ErrNoStreamResponse) {
			err = errors.Join(err, p.Repair(ctx))
		}
		return 0, fmt.Errorf("publish %s of %s: %w", kind, m.Subject, err)
	}
	if ack.Duplicate {
		return ack.Sequence, errDuplicate
	}
	p.Metrics.published(kind, time.Since(start))
	return ack.Sequence, nil
}

// reread learns what the stream holds of the job's poll. It returns errAgain,
// or errFenced if that is of a newer owner.
func (p *Publisher) reread(ctx context.Context, j Job) (Stored, error) { return p.read(ctx, j, false) }

// read is reread; ours says that the record which is known was just stored.
func (p *Publisher) read(ctx context.Context, j Job, ours bool) (Stored, error) {
	st := j.Known
	// In this order: if the record is ours, nobody else adds an event after it.
	fresh := bus.Message{Seq: st.Guard, Fresh: st.Fresh, Circuits: st.Circuits}
	if !ours {
		var err error
		if fresh, err = p.Last(ctx, p.Names.InFresh(j.Topic)); err != nil {
			return st, err
		}
	}
	ev, err := p.Last(ctx, p.Names.In(j.Topic))
	if err != nil {
		return st, err
	}
	r := Recovered{Event: ev.Event, EventSeq: ev.Seq, Fresh: fresh.Fresh, FreshSeq: fresh.Seq, Circuits: fresh.Circuits}
	if j.Fence != nil && j.Keyed {
		if r.Keys, r.KeySeqs, err = p.readKeys(ctx, j.Topic, r.FreshSeq); err != nil {
			return st, err
		}
	}
	if r.Fence() > j.Tenure.Fence {
		return st, lease.ErrFenced
	}
	if j.Sort != nil {
		r = j.Sort(r)
	}
	st.Learn(r, j.Ignore)
	st.Fenced = (st.Fenced || r.FreshSeq != j.Known.Guard) && r.Fresh != nil && r.Fresh.Fence == j.Tenure.Fence
	st.Synced = st.Fenced && (st.Synced || j.Fence != nil)
	return st, ErrAgain
}

// duplicate looks at the event that is stored under the job's message id: ours,
// if only its acknowledgement was lost, or another's for the same slot.
func (p *Publisher) duplicate(ctx context.Context, j Job, seq uint64) (Stored, error) {
	st := j.Known
	m, err := p.storedAt(ctx, seq)
	if err != nil {
		return st, err
	}
	if !st.same(m.Event, j.Event, j.Digest, j.Slot, j.Ignore) {
		return st, ErrSlotTaken
	}
	st.seq = seq
	return st, ErrAgain
}

// Last reads the last message on a subject; the zero Message when there is none,
// and one with nothing but Seq when it is no record.
func (p *Publisher) Last(ctx context.Context, subject string) (bus.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, PublishTimeout)
	defer cancel()
	return p.Names.LastOn(ctx, p.Conn.NATS(), subject)
}

// storedAt reads the message with a sequence number, like Last.
func (p *Publisher) storedAt(ctx context.Context, seq uint64) (bus.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, PublishTimeout)
	defer cancel()
	return p.Names.StoredAt(ctx, p.Conn.NATS(), seq)
}

// readSource reads everything the stream holds of a source.
func (p *Publisher) ReadSource(ctx context.Context, source string) (polls map[string]Recovered, breaker bus.Message, err error) {
	ctx, cancel := context.WithTimeout(ctx, PublishTimeout)
	defer cancel()
	polls = map[string]Recovered{}
	_, err = p.Names.LastPerSubject(ctx, p.Conn.NATS(), p.Conn.JetStream(), p.Names.In(source)+".>", 0, func(m *nats.Msg) {
		d, err := p.Names.Decode(m)
		switch {
		case err != nil: // not ours; put finds out if it matters
		case d.Event != nil:
			r := polls[d.Event.Poll]
			if token, ok := keyToken(d.Event); ok {
				if r.Keys == nil {
					r.Keys, r.KeySeqs = map[string]*event.Event{}, map[string]uint64{}
				}
				r.Keys[token], r.KeySeqs[token] = d.Event, d.Seq
			} else {
				r.Event, r.EventSeq = d.Event, d.Seq
			}
			polls[d.Event.Poll] = r
		case d.Fresh != nil:
			r := polls[d.Fresh.Poll]
			r.Fresh, r.FreshSeq, r.Circuits, r.Place = d.Fresh, d.Seq, d.Circuits, d.Place
			polls[d.Fresh.Poll] = r
		case d.Breaker != nil:
			breaker = d
		}
	})
	if err != nil {
		return nil, breaker, fmt.Errorf("read source %s from the stream: %w", source, err)
	}
	return polls, breaker, nil
}

// putSteps publishes the steps of a job, one after the other.
func (p *Publisher) putSteps(ctx context.Context, j Job, st *Stored) error {
	for _, s := range j.Steps {
		s.Event.Version, s.Event.Fence = st.Version+1, j.Tenure.Fence
		if _, err := p.send(ctx, "event", p.Names.EventMsg(s.Event, j.Slot), p.Names.InFresh(j.Topic), st.Guard, j.Tenure); err != nil {
			return err
		}
		s.Done, st.Version = true, s.Event.Version
	}
	return nil
}

// past calls each for the events of a topic among the last messages of the
// stream, oldest first; 0 is all messages.
func (p *Publisher) ReadBack(ctx context.Context, topic string, messages uint64, each func(*event.Event)) error {
	state, err := bus.State(ctx, p.Conn.JetStream(), p.Names)
	if err != nil {
		return err
	}
	from := uint64(1)
	if messages > 0 && state.LastSeq > messages {
		from = state.LastSeq - messages
	}
	return p.Names.Range(ctx, p.Conn.NATS(), p.Names.In(topic), from, state.LastSeq, func(m *nats.Msg) {
		if d, err := p.Names.Decode(m); err == nil && d.Event != nil {
			each(d.Event)
		}
	})
}

// step is one event of a walk: a position, or that positions are taken back.
type Step struct {
	Event *event.Event // without times, version and fence until it is put
	Sent  time.Time    // when the head was asked for, before it
	Id    string
	Done  bool // stored
}
