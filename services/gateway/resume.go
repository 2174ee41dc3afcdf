package gateway

import (
	"context"
	"slices"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/wire"
)

const (
	// maxReplay is the most events a resume replays; more is answered too_far,
	// and a snapshot.
	maxReplay = 10_000
	// replayWait bounds what reading the stream back may take.
	replayWait = 10 * time.Second
	// deletionMargin is how long before a deletion goes it is no longer relied
	// on: clocks differ, and reading takes time.
	deletionMargin = 5 * time.Minute
	// behindWait is how long a gateway may be behind what the client saw at
	// another one.
	behindWait = 5 * time.Second
)

// A reader of the stream's past, for what the history no longer holds.
type replayer interface {
	// replay returns the events after from, up to and including to, of topics
	// that the patterns match. complete is false when the stream may have
	// dropped some of them.
	replay(ctx context.Context, patterns []string, from, to uint64) (events []past, complete bool, err error)
}

// replayed is what a resumed subscription begins with.
type replayed struct {
	events []past
	reason string // why it cannot be resumed; empty: it can
}

// since finds the events after a position that the new patterns match. The
// caller holds the hub's mutex, which is released while the stream is read
// back; to is the position at which live frames begin.
func (s *server) since(since *wire.Since, patterns []string, to uint64) replayed {
	h := s.hub
	if since.Seq > to {
		return replayed{reason: wire.NotResumedEpoch} // waited for in vain: not the same stream
	}
	if events, ok := h.history.after(since.Seq); ok {
		var out []past
		for _, p := range events {
			if p.seq <= to && matchAny(patterns, p.e.Topic) {
				if out = append(out, p); len(out) > maxReplay {
					return replayed{reason: wire.NotResumedTooFar}
				}
			}
		}
		return replayed{events: out}
	}
	if s.past == nil {
		return replayed{reason: wire.NotResumedTooFar}
	}
	h.mu.Unlock()
	defer h.mu.Lock()
	ctx, cancel := context.WithTimeout(context.Background(), replayWait)
	defer cancel()
	events, complete, err := s.past.replay(ctx, patterns, since.Seq, to)
	switch {
	case err != nil:
		s.log.Warn("cannot read the stream back for a client that resumes; it gets a snapshot", "error", err)
		return replayed{reason: wire.NotResumedTooFar}
	case !complete:
		return replayed{reason: wire.NotResumedTrimmed}
	case len(events) > maxReplay:
		return replayed{reason: wire.NotResumedTooFar}
	}
	return replayed{events: events}
}

// reached waits until the gateway has read the stream as far as a client has
// seen it elsewhere, for behindWait at most. Reader's.
func (s *server) reached(since *wire.Since) {
	for end := time.Now().Add(behindWait); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		s.hub.mu.Lock()
		there := s.hub.seq >= since.Seq || s.hub.epoch != since.Epoch
		s.hub.mu.Unlock()
		if there {
			return
		}
	}
}

// streamPast reads the past from the stream by direct get.
type streamPast struct {
	f   *bus.Follower
	now func() time.Time
}

func (p streamPast) replay(ctx context.Context, patterns []string, from, to uint64) ([]past, bool, error) {
	state, err := bus.State(ctx, p.f.JS, p.f.Names)
	if err != nil {
		return nil, false, err
	}
	if state.FirstSeq > from+1 {
		return nil, false, nil
	}
	// Deletions go after a while, and their topics' history went with them.
	since, err := p.f.StoredAt(ctx, from+1)
	if err != nil {
		return nil, false, err
	}
	if !since.IsZero() && p.now().Sub(since) > bus.KeepDeletions-deletionMargin {
		return nil, false, nil
	}
	msgs, err := p.f.Events(ctx, patterns, from+1, to, maxReplay+1)
	if err != nil {
		return nil, false, err
	}
	events := make([]past, 0, len(msgs))
	counts := map[string]int64{}
	versions := map[string]uint64{}
	for _, m := range msgs {
		e := m.Event
		if v, ok := versions[e.Topic]; ok && v+1 != e.Version {
			return nil, false, nil
		}
		versions[e.Topic] = e.Version
		// A topic's oldest messages go when there are more than the history
		// depth: with fewer than that in the range, none of it has gone.
		if counts[e.Topic]++; state.History > 0 && counts[e.Topic] >= state.History {
			return nil, false, nil
		}
		events = append(events, past{e, m.Seq})
	}
	slices.SortFunc(events, func(a, b past) int {
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	return events, true, nil
}
