package record

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/lease"
)

// fence publishes the job's fence, unless an earlier one holds, and reads what the
// stream holds. ErrAgain says that the rest of the job is to be made again.
//
// An event of an older holder that is stored before the fence is read, one that comes
// after it is refused. That holds for the first event of all, too, when there was no
// freshness record yet.
func (p *Publisher) fence(ctx context.Context, j Job) (State, error) {
	ours := false
	if j.Known.Sync == Unknown {
		err := p.putFresh(ctx, j, j.Fence, &j.Known)
		if err != nil && !errors.Is(err, errRefused) {
			return j.Known, err
		}
		ours = err == nil
	}
	st, err := p.read(ctx, j, ours)
	if errors.Is(err, ErrAgain) && st.Sync == Synced && j.Fence == j.Fresh {
		return st, nil // the fence was all that there was to publish
	}
	return st, err
}

// reread learns what the stream holds of the job's poll. It returns ErrAgain, or
// lease.ErrFenced if that is of a newer holder.
func (p *Publisher) reread(ctx context.Context, j Job) (State, error) { return p.read(ctx, j, false) }

// read is reread. With ours, the freshness record that is known was stored just now.
func (p *Publisher) read(ctx context.Context, j Job, ours bool) (State, error) {
	st := j.Known
	// In this order: if the record is ours, nobody else adds an event after it.
	fresh := bus.Message{Seq: st.Guard, Fresh: st.Fresh, Circuits: st.Circuits}
	if !ours {
		var err error
		if fresh, err = p.Last(ctx, p.Names.InFresh(j.Topic)); err != nil {
			return st, err
		}
	}
	own, err := p.Last(ctx, p.Names.In(j.Topic))
	if err != nil {
		return st, err
	}
	r := Recovered{
		Event: own.Event, EventSeq: own.Seq, Fresh: fresh.Fresh, FreshSeq: fresh.Seq, Circuits: fresh.Circuits,
	}
	if j.Fence != nil && j.Keys {
		if r.Keys, r.KeySeqs, err = p.readKeys(ctx, j.Topic, r.FreshSeq); err != nil {
			return st, err
		}
	}
	if r.Fence() > j.Tenure.Fence {
		return st, lease.ErrFenced
	}
	// A record under our fence that was not known is ours, and its acknowledgement was
	// lost. The one that was known fences nothing that was sent after it.
	fenced := st.Sync >= Fenced || r.FreshSeq != st.Guard
	switch fenced = fenced && r.Fresh != nil && r.Fresh.Fence == j.Tenure.Fence; {
	case !fenced:
		st.Sync = Unknown
	case st.Sync == Synced || j.Fence != nil:
		st.Sync = Synced
	default:
		st.Sync = Fenced
	}
	st.Learn(r)
	return st, ErrAgain
}

// Last reads the last message on a subject at the stream's leader; the zero Message
// when there is none, and one with nothing but Seq when it is no record.
func (p *Publisher) Last(ctx context.Context, subject string) (bus.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, PublishTimeout)
	defer cancel()
	return p.Names.LastOn(ctx, p.Conn.NATS(), subject)
}

// storedAt reads the message with a sequence number, as Last does.
func (p *Publisher) storedAt(ctx context.Context, seq uint64) (bus.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, PublishTimeout)
	defer cancel()
	return p.Names.StoredAt(ctx, p.Conn.NATS(), seq)
}

// readKeys reads the last events of a poll's keys, and their sequence numbers, by the
// last token of their topics. The server that answers has at least the message atLeast.
func (p *Publisher) readKeys(
	ctx context.Context, topic string, atLeast uint64,
) (map[string]*event.Event, map[string]uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, PublishTimeout)
	defer cancel()
	keys, seqs := map[string]*event.Event{}, map[string]uint64{}
	_, err := p.Names.LastPerSubject(ctx, p.Conn.NATS(), p.Conn.JetStream(), p.Names.In(topic)+".>", atLeast, func(m *nats.Msg) {
		d, err := p.Names.Decode(m)
		if err != nil || d.Event == nil || d.Event.Poll != topic {
			return
		}
		if token, ok := keyToken(d.Event); ok {
			keys[token], seqs[token] = d.Event, d.Seq
		}
	})
	return keys, seqs, err
}

// keyToken is the last token of the topic of a key's event.
func keyToken(e *event.Event) (string, bool) { return strings.CutPrefix(e.Topic, e.Poll+".") }

// ReadSource reads all that the stream holds of a source: its polls by their topics,
// and the last transition.
func (p *Publisher) ReadSource(
	ctx context.Context, source string,
) (polls map[string]Recovered, transition bus.Message, err error) {
	ctx, cancel := context.WithTimeout(ctx, PublishTimeout)
	defer cancel()
	polls = map[string]Recovered{}
	_, err = p.Names.LastPerSubject(ctx, p.Conn.NATS(), p.Conn.JetStream(), p.Names.In(source)+".>", 0, func(m *nats.Msg) {
		d, err := p.Names.Decode(m)
		switch {
		case err != nil: // not ours; Put finds out if it matters
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
			transition = d
		}
	})
	if err != nil {
		return nil, transition, fmt.Errorf("read source %s from the stream: %w", source, err)
	}
	return polls, transition, nil
}

// ReadBack calls each for the events of a topic among the last messages of the stream,
// oldest first. messages is how many of all topics; 0 is all that the stream holds.
func (p *Publisher) ReadBack(
	ctx context.Context, topic string, messages uint64, each func(*event.Event),
) error {
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
