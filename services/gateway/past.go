package gateway

import (
	"context"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/services/gateway/hub"
	"github.com/pollcast/pollcast/services/gateway/memory"
)

// deletionMargin is how long before a deletion goes it is no longer relied
// on: clocks differ, and reading takes time.
const deletionMargin = 5 * time.Minute

// A replayer reads back from the stream what the history no longer holds.
type replayer interface {
	// replay reads the events after from, up to and including to, of topics that
	// the patterns match. Of more than hub.MaxReplay, or more than most bytes, it
	// returns the last.
	replay(ctx context.Context, patterns []string, from, to uint64, most int) (hub.Stretch, error)
}

// streamPast reads the stream back by direct get.
type streamPast struct {
	f   *bus.Follower
	now func() time.Time
}

// replay reads backwards, in pieces, so that it can end where there is too much.
func (p streamPast) replay(ctx context.Context, patterns []string, from, to uint64, most int) (hub.Stretch, error) {
	out := hub.Stretch{From: from, To: to}
	state, err := bus.State(ctx, p.f.Conn.JetStream(), p.f.Names)
	if err != nil {
		return out, err
	}
	out.Depth = state.History
	// Deletions go after a while, and their topics' history went with them.
	young, err := p.f.StoredSince(ctx, p.now().Add(deletionMargin-bus.KeepDeletions))
	if err != nil {
		return out, err
	}
	if young == 0 {
		young = to + 1
	}
	out.Trimmed = max(memory.Less(state.FirstSeq, 1), young-1)
	span := uint64(hub.MaxReplay)
	for hi := to; hi > max(from, out.Trimmed, out.TooFar); {
		lo := max(from, out.Trimmed, memory.Less(hi, span))
		piece := hub.Stretch{}
		if err := p.f.Events(ctx, patterns, lo+1, hi, func(m bus.Message) {
			piece.Add(hub.Event{Event: m.Event, Seq: m.Seq}, most)
		}); err != nil {
			return out, err
		}
		if piece.Settle(most); len(piece.Events) < hub.MaxReplay/8 {
			span *= 8 // few and far between
		}
		out.Prepend(piece, most)
		hi = lo
	}
	out.Index()
	return out, nil
}
