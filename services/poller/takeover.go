package poller

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/pollcast/pollcast/pkg/event"
)

// How a new owner begins: its freshness record shuts older owners out, then the
// stream's leader is asked what they left, and only then comes an event. An
// event of an older owner that is stored before the record is counted on, one
// that comes after it is refused; that holds for the first event of all, too,
// when there was no record yet. And it holds for events of its own that it does
// not know to be stored or lost, wherefore it begins anew after such a one.

// confirmed is when the last owner's value was last confirmed, as far as the
// stream says.
func (r remains) confirmed(now time.Time) time.Time {
	at := r.asOf()
	if r.event == nil && r.fresh != nil {
		at = r.fresh.AsOf
	}
	return anchor(at, now)
}

// takeOver publishes the record that shuts out what is on its way, unless that
// is done, and reads what is there. With errAgain the rest of the job is to be made anew.
func (p *publisher) takeOver(ctx context.Context, j job) (stored, error) {
	ours := false
	if !j.known.shut {
		err := p.putFresh(ctx, j, j.fence, &j.known)
		if err != nil && !errors.Is(err, errRefused) {
			return j.known, err
		}
		ours = err == nil
	}
	st, err := p.read(ctx, j, ours)
	if errors.Is(err, errAgain) && st.alone && j.fence == j.fresh {
		return st, nil // and it was all there is to say
	}
	return st, err
}

// readKeys is the last events of a poll's keys, and their places, by the last
// token of their topics, when the stream had at least the message atLeast.
func (p *publisher) readKeys(ctx context.Context, topic string, atLeast uint64) (map[string]*event.Event, map[string]uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	keys, seqs := map[string]*event.Event{}, map[string]uint64{}
	_, err := p.names.LastPerSubject(ctx, p.nc, p.js, p.names.In(topic)+".>", atLeast, func(m *nats.Msg) {
		d, err := p.names.Decode(m)
		if err != nil || d.Event == nil || d.Event.Poll != topic {
			return
		}
		if token, ok := keyToken(d.Event); ok {
			keys[token], seqs[token] = d.Event, d.Seq
		}
	})
	return keys, seqs, err
}
