package record

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"
	"github.com/pollcast/pollcast/pkg/event"
)

// takeOver publishes the record that shuts out what is on its way, unless that
// is done, and reads what is there. With errAgain the rest of the job is to be made anew.
func (p *Publisher) takeOver(ctx context.Context, j Job) (Stored, error) {
	ours := false
	if !j.Known.Fenced {
		err := p.putFresh(ctx, j, j.Fence, &j.Known)
		if err != nil && !errors.Is(err, errRefused) {
			return j.Known, err
		}
		ours = err == nil
	}
	st, err := p.read(ctx, j, ours)
	if errors.Is(err, ErrAgain) && st.Synced && j.Fence == j.Fresh {
		return st, nil // and it was all there is to say
	}
	return st, err
}

// readKeys is the last events of a poll's keys, and their places, by the last
// token of their topics, when the stream had at least the message atLeast.
func (p *Publisher) readKeys(ctx context.Context, topic string, atLeast uint64) (map[string]*event.Event, map[string]uint64, error) {
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
