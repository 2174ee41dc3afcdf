package gateway

import (
	"context"
	"slices"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/wire"
)

// deletionMargin is how long before a deletion goes it is no longer relied
// on: clocks differ, and reading takes time.
const deletionMargin = 5 * time.Minute

// A replayer reads the stream's past, for what the history no longer holds.
type replayer interface {
	// replay reads the events after from, up to and including to, of topics that
	// the patterns match. Of more than maxReplay, or more than most bytes, it
	// gives the last.
	replay(ctx context.Context, patterns []string, from, to uint64, most int) (stretch, error)
}

// A stretch is a part of the stream's past, after from and up to to, as it was
// read back for all who asked for it. From where on it is complete may lie in
// its middle, and differ by topic.
type stretch struct {
	from, to uint64
	events   []past // in the stream's order
	bytes    int    // of events, with eventCost each
	depth    int64  // messages that the stream keeps per subject; 0 or less: any number
	era      int    // of the history that goes on after it

	topics  map[string][]past // events by topic
	trimmed uint64            // the stream may have dropped events up to here
	far     uint64            // events up to here were more than are kept
	holes   map[string]uint64 // the same as trimmed, of one topic
}

// lacks says why a client that has seen the stream up to seq cannot have the
// rest from here; empty: it can.
func (s *stretch) lacks(seq uint64, patterns []string) (reason string) {
	switch {
	case seq < s.trimmed:
		return wire.NotResumedTrimmed
	case seq < s.far:
		return wire.NotResumedTooFar
	}
	for topic, upTo := range s.holes {
		if seq < upTo && matchAny(patterns, topic) {
			return wire.NotResumedTrimmed
		}
	}
	return ""
}

// after returns the events after seq that the patterns match.
func (s *stretch) after(seq uint64, patterns []string) []past {
	return pick(s.events, s.topics, seq, patterns, maxReplay)
}

// check looks for what the stream has dropped of single topics, in the light of
// what the history holds of the time after the stretch; false when that does
// not reach so far back. The caller holds the hub's mutex.
//
// A topic's versions jump only at its deletion, and its oldest events go when
// there are more than depth: who is owed fewer has lost none. What the stream
// has stored and the history not heard of yet is what the margin is for.
func (s *stretch) check(h *history) bool {
	later, ok := h.after(s.to)
	if !ok {
		return false
	}
	s.holes = map[string]uint64{}
	events := h.survivors(slices.Concat(s.events, later), s.to)
	count := map[string]int64{}
	next := map[string]past{}
	for _, p := range slices.Backward(events) {
		t := p.e.Topic
		if n, ok := next[t]; ok && p.e.Version+1 != n.e.Version && !n.e.Deleted {
			s.hole(t, n.seq)
		}
		next[t] = p
		if count[t]++; s.depth > 0 && count[t] >= s.depth-s.depth/8 {
			s.hole(t, p.seq)
		}
	}
	return true
}

func (s *stretch) hole(topic string, upTo uint64) { s.holes[topic] = max(s.holes[topic], upTo) }

// streamPast reads the past from the stream by direct get.
type streamPast struct {
	f   *bus.Follower
	now func() time.Time
}

// replay reads backwards, in pieces, so that it can end where there is too much.
func (p streamPast) replay(ctx context.Context, patterns []string, from, to uint64, most int) (stretch, error) {
	out := stretch{from: from, to: to}
	state, err := bus.State(ctx, p.f.Conn.JetStream(), p.f.Names)
	if err != nil {
		return out, err
	}
	out.depth = state.History
	// Deletions go after a while, and their topics' history went with them.
	young, err := p.f.StoredSince(ctx, p.now().Add(deletionMargin-bus.KeepDeletions))
	if err != nil {
		return out, err
	}
	if young == 0 {
		young = to + 1
	}
	out.trimmed = max(less(state.FirstSeq, 1), young-1)
	span := uint64(maxReplay)
	for hi := to; hi > max(from, out.trimmed, out.far); {
		lo := max(from, out.trimmed, less(hi, span))
		piece := stretch{}
		if err := p.f.Events(ctx, patterns, lo+1, hi, func(m bus.Message) {
			piece.add(past{m.Event, m.Seq}, most)
		}); err != nil {
			return out, err
		}
		if piece.settle(most); len(piece.events) < maxReplay/8 {
			span *= 8 // few and far between
		}
		out.events = append(piece.events, out.events...)
		out.bytes += piece.bytes
		out.far = max(out.far, piece.far)
		out.settle(most)
		hi = lo
	}
	out.topics = map[string][]past{}
	for _, p := range out.events {
		out.topics[p.e.Topic] = append(out.topics[p.e.Topic], p)
	}
	return out, nil
}

// add takes in an event in whatever order they come. It holds no more than
// twice as much as it may.
func (s *stretch) add(p past, most int) {
	s.events = append(s.events, p)
	s.bytes += len(p.e.Data) + eventCost
	if len(s.events) > 2*maxReplay || s.bytes > 2*most {
		s.settle(most)
	}
}

// settle brings the events into the stream's order, each once, and drops the
// oldest if there are more than are kept.
func (s *stretch) settle(most int) {
	slices.SortFunc(s.events, bySeq)
	s.events = slices.CompactFunc(s.events, func(a, b past) bool { return a.seq == b.seq })
	s.bytes = 0
	for i, p := range slices.Backward(s.events) {
		more := len(p.e.Data) + eventCost
		if len(s.events)-i > maxReplay || s.bytes+more > most || p.seq <= s.far {
			s.far = max(s.far, p.seq)
			s.events = slices.Clone(s.events[i+1:])
			break
		}
		s.bytes += more
	}
}
