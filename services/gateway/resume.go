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
	// that the patterns match, in the stream's order. complete is false when the
	// stream has dropped some of them, or is about to: it holds depth messages per
	// subject (0: any number), of which whoever calls knows the later ones.
	replay(ctx context.Context, patterns []string, from, to uint64) (events []past, depth int64, complete bool, err error)
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
	// What the history holds is not read back: a replica may not have it yet.
	known := max(since.Seq, h.history.from)
	var late []past
	events, _ := h.history.after(known)
	for _, p := range events {
		if p.seq <= to && matchAny(patterns, p.e.Topic) {
			if late = append(late, p); len(late) > maxReplay {
				return replayed{reason: wire.NotResumedTooFar}
			}
		}
	}
	if known == since.Seq {
		return replayed{events: late}
	}
	if s.past == nil {
		return replayed{reason: wire.NotResumedTooFar}
	}
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), replayWait)
	events, depth, complete, err := s.past.replay(ctx, patterns, since.Seq, known)
	cancel()
	h.mu.Lock()
	switch {
	case err != nil:
		if n := s.unread.may(h.now(), sayEvery); n > 0 {
			s.log.Warn("cannot read the stream back for clients that resume; they get a snapshot", "clients", n, "error", err)
		}
		return replayed{reason: wire.NotResumedTooFar}
	case len(events)+len(late) > maxReplay:
		return replayed{reason: wire.NotResumedTooFar}
	}
	events = h.history.survivors(append(events, late...), known)
	if !complete || !contiguous(events) || !h.history.spares(events, patterns, known, depth) {
		return replayed{reason: wire.NotResumedTrimmed}
	}
	return replayed{events: events}
}

// survivors are the events without those that a deletion after known has taken
// along: the stream, read back after it, may hold some of them or none, and the
// deletion stands for them all.
func (h *history) survivors(events []past, known uint64) []past {
	gone := map[string]uint64{}
	later, _ := h.after(known)
	for _, p := range later {
		if p.e.Deleted {
			gone[p.e.Topic] = p.seq
		}
	}
	return slices.DeleteFunc(events, func(p past) bool { return p.seq < gone[p.e.Topic] })
}

// contiguous reports whether no topic's version jumps, but to its deletion.
func contiguous(events []past) bool {
	versions := map[string]uint64{}
	for _, p := range events {
		if v, ok := versions[p.e.Topic]; ok && v+1 != p.e.Version && !p.e.Deleted {
			return false
		}
		versions[p.e.Topic] = p.e.Version
	}
	return true
}

// spares reports whether the stream can have dropped none of the topics' events
// so far: a topic's oldest go when there are more than depth. Which there are up
// to a position was read; the history knows what came after it. What the stream
// has stored and the history not heard of yet is what the margin is for.
func (h *history) spares(events []past, patterns []string, known uint64, depth int64) bool {
	later, ok := h.after(known)
	if !ok {
		return false
	}
	if depth <= 0 {
		return true
	}
	counts := map[string]int64{}
	for _, p := range events {
		if p.seq <= known {
			counts[p.e.Topic]++
		}
	}
	for _, p := range later {
		if matchAny(patterns, p.e.Topic) {
			counts[p.e.Topic]++
		}
	}
	for _, n := range counts {
		if n >= depth-depth/8 {
			return false
		}
	}
	return true
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

func (p streamPast) replay(ctx context.Context, patterns []string, from, to uint64) ([]past, int64, bool, error) {
	state, err := bus.State(ctx, p.f.JS, p.f.Names)
	if err != nil {
		return nil, 0, false, err
	}
	if state.FirstSeq > from+1 {
		return nil, state.History, false, nil
	}
	// Deletions go after a while, and their topics' history went with them.
	since, err := p.f.StoredAt(ctx, from+1)
	if err != nil {
		return nil, 0, false, err
	}
	if !since.IsZero() && p.now().Sub(since) > bus.KeepDeletions-deletionMargin {
		return nil, state.History, false, nil
	}
	msgs, err := p.f.Events(ctx, patterns, from+1, to, maxReplay+1)
	if err != nil {
		return nil, 0, false, err
	}
	events := make([]past, 0, len(msgs))
	for _, m := range msgs {
		events = append(events, past{m.Event, m.Seq})
	}
	slices.SortFunc(events, func(a, b past) int {
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	return events, state.History, true, nil
}
