package gateway

import (
	"errors"

	"github.com/pollcast/pollcast/pkg/wire"
)

const (
	// maxReplay is the most events a resume replays; more is answered too_far,
	// and a snapshot.
	maxReplay = 10_000
)

// replayed is what a resumed subscription begins with.
type replayed struct {
	events []past
	reason string // why it cannot be resumed; empty: it can
}

// since finds the events after a position that a feed's patterns match. The caller
// holds the hub's mutex, which is released while the stream is read back: the
// events are those up to the hub's position in the end.
func (s *server) since(since *wire.Since, f *feed) replayed {
	h, patterns := s.hub, f.patterns
	if since.Seq > h.seq {
		return replayed{reason: wire.NotResumedEpoch} // waited for in vain: not the same stream
	}
	if since.Seq >= h.history.from {
		if f.far > since.Seq && f.era == h.history.era { // as it was for another
			return replayed{reason: wire.NotResumedTooFar}
		}
		r := owed(h.history.matching(since.Seq, patterns, maxReplay))
		if r.reason != "" {
			f.far, f.era = since.Seq+1, h.history.era
		}
		return r
	}
	if s.past == nil {
		return replayed{reason: wire.NotResumedTooFar}
	}
	// What the history holds is not read back: a replica may not have it yet.
	// Those who are not far behind share what is read of all topics.
	near := h.history.reach()-since.Seq <= nearBy
	for {
		wanted := patterns
		if near {
			wanted = everything
		}
		h.mu.Unlock()
		b, err := s.readbacks.get(s, wanted, since.Seq)
		h.mu.Lock()
		if err != nil {
			if n := s.unread.may(h.now(), sayEvery); n > 0 {
				s.log.Warn("cannot read the stream back for clients that resume; they get a snapshot", "clients", n, "error", err)
			}
			return replayed{reason: wire.NotResumedTooFar}
		}
		r := s.from(b, since, patterns)
		s.readbacks.put(s.budget, b)
		if r.reason == "" && !f.ends(r.events, since.Seq) {
			r = replayed{reason: wire.NotResumedTooFar}
			if n := s.unread.may(h.now(), sayEvery); n > 0 {
				s.log.Warn("cannot read the stream back for clients that resume; they get a snapshot", "clients", n, "error", errCutShort)
			}
			return r
		}
		if !near || r.reason != wire.NotResumedTooFar {
			return r
		}
		near = false // of all topics it was too much
	}
}

// from is what a client is owed of a part of the stream that was read back, and
// of the history after it. The caller holds the hub's mutex.
func (s *server) from(b *readback, since *wire.Since, patterns []string) replayed {
	h := s.hub
	if since.Epoch != h.epoch {
		return replayed{reason: wire.NotResumedEpoch} // since the mutex was released
	}
	if b.to < h.history.from || b.era != h.history.era || b.past.holes == nil {
		return replayed{reason: wire.NotResumedTrimmed} // it has moved on meanwhile
	}
	if reason := b.past.lacks(since.Seq, patterns); reason != "" {
		return replayed{reason: reason}
	}
	events := append(b.past.after(since.Seq, patterns), h.history.matching(b.to, patterns, maxReplay)...)
	return owed(h.history.survivors(events, b.to))
}

// errCutShort is what a server did that led the stream once: it says that there
// is no more although there is.
var errCutShort = errors.New("NATS holds less than was read from it before")

// ends reports whether the events after a position end with the last one of
// every topic. The caller holds the hub's mutex.
func (f *feed) ends(events []past, seq uint64) bool {
	last := make(map[string]uint64, len(f.topics))
	for _, p := range events {
		last[p.e.Topic] = p.seq
	}
	for t := range f.topics {
		if t.last != nil && t.seq > seq && last[t.name] != t.seq {
			return false
		}
	}
	return true
}

// owed is the answer to a client that is owed the events.
func owed(events []past) replayed {
	if len(events) > maxReplay {
		return replayed{reason: wire.NotResumedTooFar}
	}
	return replayed{events: events}
}
