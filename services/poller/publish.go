package poller

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
const publishTimeout = 5 * time.Second

// What came in between when a record could not be published.
var (
	// errAgain: the stream held something else than was known; what is returned
	// with it is known now, and the record is to be made anew.
	errAgain = errors.New("stream has moved on")
	// errSlotTaken: an event of the same slot is stored, with another value.
	errSlotTaken = errors.New("an event of this slot is stored already")

	errRefused = errors.New("refused by the expected sequence")
	// errBusy: the stream is replicated, and takes one message at a time under
	// the same expected sequence; another one of ours is on its way.
	errBusy      = fmt.Errorf("%w: another message is on its way", errRefused)
	errDuplicate = errors.New("stored already")
)

// job is one thing for a poll to say: an event, its freshness, or both, in this
// order, so that no freshness record confirms a value that is not stored.
type job struct {
	topic  string
	ignore []path
	event  *event.Event // without a version; or nil
	digest digest       // of the event
	slot   time.Time
	keys   []*keyJob
	steps  []*step
	fence  *event.Freshness // nil, or to be published before anything else, and the stream read after it
	keyed  bool             // that reading is of keys, too
	fresh  *event.Freshness // or nil
	// circuits are those of the source when fresh was made.
	circuits []event.Circuit
	place    *event.Place // of a walk when fresh was made
	asOf     time.Time    // which event and fresh tell of
	known    stored
	tenure   *tenure
	sort     func(remains) remains // or nil
}

// publisher puts records into the stream.
type publisher struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	names   bus.Names
	places  places
	metrics *recordMetrics
	repair  func(context.Context) error // makes the stream again if it is gone
	timeout time.Duration               // of one message; 0: publishTimeout
	// keepDeleted is how long the stream holds deletions.
	keepDeleted time.Duration
	// inTurn: the stream was busy with one key's event when another one came.
	inTurn atomic.Bool
}

// maxPayload is the longest value that NATS takes, in bytes, with room for the
// headers; 0 while that is not known.
func (p *publisher) maxPayload() int64 {
	if most := p.nc.MaxPayload(); most > headerRoom {
		return most - headerRoom
	}
	return 0
}

const headerRoom = 8 << 10

// put does a job and returns what the stream holds then. With errAgain and
// errSlotTaken that is worth keeping too.
func (p *publisher) put(ctx context.Context, j job) (stored, error) {
	st := j.known
	if j.fence != nil {
		return p.takeOver(ctx, j)
	}
	if j.event != nil {
		j.event.Version, j.event.Fence = st.version+1, j.tenure.fence
		seq, err := p.send(ctx, "event", p.names.EventMsg(j.event, j.slot), p.names.InFresh(j.topic), st.guard, j.tenure)
		switch {
		case errors.Is(err, errDuplicate):
			return p.duplicate(ctx, j, seq)
		case errors.Is(err, errRefused):
			return p.reread(ctx, j)
		case err != nil:
			return st.doubt(), err
		}
		st.version, st.digest, st.slot, st.has, st.seq = j.event.Version, j.digest, j.slot, true, seq
	}
	switch err := p.putSteps(ctx, j, &st); {
	case errors.Is(err, errDuplicate), errors.Is(err, errRefused):
		return p.reread(ctx, j)
	case err != nil:
		return st.doubt(), err
	}
	switch err := p.putKeys(ctx, j); {
	case errors.Is(err, errRefused):
		return p.reread(ctx, j)
	case errors.Is(err, errAgain):
		return st, err
	case err != nil:
		return st.doubt(), err
	}
	if j.fresh != nil {
		if err := p.putFresh(ctx, j, j.fresh, &st); errors.Is(err, errRefused) {
			return p.reread(ctx, j)
		} else if err != nil {
			return st, err
		}
	}
	return st, nil
}

// putFresh publishes a freshness record.
func (p *publisher) putFresh(ctx context.Context, j job, f *event.Freshness, st *stored) error {
	f.Fence = j.tenure.fence
	m, err := p.names.FreshMsg(f, j.place, j.circuits...)
	if err != nil {
		return err
	}
	seq, err := p.send(ctx, "freshness", m, p.names.InFresh(j.topic), st.guard, j.tenure)
	switch {
	case errors.Is(err, errRefused):
		return err
	case errors.Is(err, errDuplicate) && seq > st.guard: // our own, whose acknowledgement was lost
	case err != nil:
		// If it is stored all the same, the next one is refused.
		return err
	}
	st.guard, st.fresh, st.circuits, st.shut = seq, f, j.circuits, true
	return nil
}

// putBreaker publishes a transition, and what the circuits of the source are
// now; guard is the sequence number of the last one.
func (p *publisher) putBreaker(ctx context.Context, b *event.Breaker, guard uint64, t *tenure, circuits ...event.Circuit) (uint64, error) {
	b.Fence = t.fence
	m, err := p.names.BreakerMsg(b, circuits...)
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
	last, err := p.last(ctx, m.Subject)
	if err != nil {
		return guard, err
	}
	if last.Breaker != nil && last.Breaker.Fence > t.fence {
		return guard, errFenced
	}
	return last.Seq, errAgain
}

// send puts one message into the stream, unless the lease is over. kind is for
// the metrics. The sequence number is that of the message, or, with
// errDuplicate, of the one stored under the same id.
func (p *publisher) send(ctx context.Context, kind string, m *nats.Msg, guard string, expect uint64, t *tenure) (uint64, error) {
	if !t.valid() {
		return 0, errExpired
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(p.timeout, publishTimeout))
	defer cancel()
	start := time.Now()
	ack, err := p.js.PublishMsg(ctx, m, jetstream.WithExpectLastSequenceForSubject(expect, guard))
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		switch api.ErrorCode {
		case jetstream.JSErrCodeStreamWrongLastSequence:
			return 0, errRefused
		case jetstream.JSErrCodeStreamWrongLastSequenceConstant:
			return 0, errBusy
		}
	}
	if err != nil {
		p.metrics.publishErrors.WithLabelValues(kind).Inc()
		if errors.Is(err, jetstream.ErrNoStreamResponse) {
			err = errors.Join(err, p.repair(ctx))
		}
		return 0, fmt.Errorf("publish %s of %s: %w", kind, m.Subject, err)
	}
	if ack.Duplicate {
		return ack.Sequence, errDuplicate
	}
	p.metrics.published(kind, time.Since(start))
	return ack.Sequence, nil
}

// reread learns what the stream holds of the job's poll. It returns errAgain,
// or errFenced if that is of a newer owner.
func (p *publisher) reread(ctx context.Context, j job) (stored, error) { return p.read(ctx, j, false) }

// read is reread; ours says that the record which is known was just stored.
func (p *publisher) read(ctx context.Context, j job, ours bool) (stored, error) {
	st := j.known
	// In this order: if the record is ours, nobody else adds an event after it.
	fresh := bus.Message{Seq: st.guard, Fresh: st.fresh, Circuits: st.circuits}
	if !ours {
		var err error
		if fresh, err = p.last(ctx, p.names.InFresh(j.topic)); err != nil {
			return st, err
		}
	}
	ev, err := p.last(ctx, p.names.In(j.topic))
	if err != nil {
		return st, err
	}
	r := remains{event: ev.Event, eventSeq: ev.Seq, fresh: fresh.Fresh, freshSeq: fresh.Seq, circuits: fresh.Circuits}
	if j.fence != nil && j.keyed {
		if r.keys, r.keySeqs, err = p.readKeys(ctx, j.topic, r.freshSeq); err != nil {
			return st, err
		}
	}
	if r.fence() > j.tenure.fence {
		return st, errFenced
	}
	if j.sort != nil {
		r = j.sort(r)
	}
	st.learn(r, j.ignore)
	st.shut = (st.shut || r.freshSeq != j.known.guard) && r.fresh != nil && r.fresh.Fence == j.tenure.fence
	st.alone = st.shut && (st.alone || j.fence != nil)
	return st, errAgain
}

// duplicate looks at the event that is stored under the job's message id: ours,
// if only its acknowledgement was lost, or another's for the same slot.
func (p *publisher) duplicate(ctx context.Context, j job, seq uint64) (stored, error) {
	st := j.known
	m, err := p.stored(ctx, seq)
	if err != nil {
		return st, err
	}
	if !st.same(m.Event, j.event, j.digest, j.slot, j.ignore) {
		return st, errSlotTaken
	}
	st.seq = seq
	return st, errAgain
}

// same reports whether the event stored under a message id is the one that was
// to be stored, whose acknowledgement was lost. If so, h knows it.
func (h *held) same(in *event.Event, want *event.Event, d digest, slot time.Time, ignore []path) bool {
	if in == nil { // the id is remembered, the message is gone
		return false
	}
	// An older one is no answer: the wall clock was set back, and comes by the
	// same slots again.
	if in.Version <= h.version {
		return false
	}
	h.version = in.Version
	if in.Deleted != want.Deleted {
		return false
	}
	if have, err := digestOf(in.Data, ignore); !in.Deleted && (err != nil || have != d) {
		return false
	}
	h.digest, h.slot, h.has = d, slot, !in.Deleted
	return true
}

// last reads the last message on a subject; the zero Message when there is none,
// and one with nothing but Seq when it is no record.
func (p *publisher) last(ctx context.Context, subject string) (bus.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	return p.names.LastOn(ctx, p.nc, subject)
}

// stored reads the message with a sequence number, like last.
func (p *publisher) stored(ctx context.Context, seq uint64) (bus.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	return p.names.StoredAt(ctx, p.nc, seq)
}

// readSource reads everything the stream holds of a source.
func (p *publisher) readSource(ctx context.Context, source string) (polls map[string]remains, breaker bus.Message, err error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	polls = map[string]remains{}
	_, err = p.names.LastPerSubject(ctx, p.nc, p.js, p.names.In(source)+".>", 0, func(m *nats.Msg) {
		d, err := p.names.Decode(m)
		switch {
		case err != nil: // not ours; put finds out if it matters
		case d.Event != nil:
			r := polls[d.Event.Poll]
			if token, ok := keyToken(d.Event); ok {
				if r.keys == nil {
					r.keys, r.keySeqs = map[string]*event.Event{}, map[string]uint64{}
				}
				r.keys[token], r.keySeqs[token] = d.Event, d.Seq
			} else {
				r.event, r.eventSeq = d.Event, d.Seq
			}
			polls[d.Event.Poll] = r
		case d.Fresh != nil:
			r := polls[d.Fresh.Poll]
			r.fresh, r.freshSeq, r.circuits, r.place = d.Fresh, d.Seq, d.Circuits, d.Place
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

// enter waits for a place; in is false if ctx ended before there was one.
func (p *publisher) enter(ctx context.Context) (waited, in bool) { return p.places.take(ctx) }

func (p *publisher) leave() { p.places.give() }
