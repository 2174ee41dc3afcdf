package hub

import (
	"fmt"
	"strings"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/topic"
	"github.com/pollcast/pollcast/services/gateway/memory"
)

// A Feed is everything that the connections with one set of patterns, one format
// and one rate receive: an event costs one append here, however many connections
// read it. Its exported fields are fixed, and so are its exported methods safe
// without the hub's mutex; the rest is the View's.
type Feed struct {
	Patterns []string
	Format   Format
	Groups   []Group

	log     frameLog
	key     string
	users   int // connections that hold a reference
	topics  map[*topicState]struct{}
	polls   map[*pollState]struct{}
	sources map[*sourceState]struct{}
	named   int64  // bytes of the key and the patterns
	pace    *pacer // nil: every event at once
	shown   shownOpenings
	tooFar  tooFar
}

// tooFar is what is known of clients that need more events than are replayed.
type tooFar struct {
	below uint64 // a client that has seen less needs too many
	era   int    // of the history, then
}

// End returns how many bytes were ever appended: a connection's lag is a
// subtraction.
func (f *Feed) End() uint64 { return f.log.end.Load() }

// Owned returns how many bytes of chunks were ever allocated.
func (f *Feed) Owned() uint64 { return f.log.owned.Load() }

// Join returns the feed of a set of patterns in a format, at a rate in events per
// second and topic (0: every event), and makes it if there is none. The caller
// holds a reference until Leave.
func (v *View) Join(patterns []string, fm Format, maxHz float64) *Feed {
	key := fmt.Sprintf("%d %v\n%s", fm, maxHz, strings.Join(patterns, "\n"))
	f := v.feeds[key]
	if f == nil {
		f = v.newFeed(key, patterns, fm, maxHz)
		v.feeds[key] = f
		v.connect(f)
	}
	if f.users++; f.users == 1 {
		v.Budget.Grow(f.cost() + minChunk)
	}
	return f
}

func (v *View) newFeed(key string, patterns []string, fm Format, maxHz float64) *Feed {
	f := &Feed{
		key: key, Patterns: patterns, Format: fm, named: int64(2*len(key) + 32*len(patterns)),
		topics: map[*topicState]struct{}{}, polls: map[*pollState]struct{}{}, sources: map[*sourceState]struct{}{},
	}
	f.log.init(v.Budget, Mark{v.seq, v.fresh}, v.now())
	if maxHz > 0 {
		f.pace = newPacer(maxHz)
		f.pace.seq = v.seq
	}
	f.Groups = v.shared.Groups(f)
	if fm.Plain() != fm {
		v.compressed.Add(1)
	}
	return f
}

// connect links a feed with the topics, polls and sources that its patterns
// match.
func (v *View) connect(f *Feed) {
	wild := false
	for _, p := range f.Patterns {
		if topic.IsPattern(p) {
			wild = true
		} else {
			f.addTopic(v.topic(p))
		}
	}
	if wild {
		v.wild[f] = struct{}{}
		for _, t := range v.topics {
			if matchAny(f.Patterns, t.name) {
				f.addTopic(t)
			}
		}
	}
	for _, p := range v.polls {
		f.addPoll(p)
	}
	for _, s := range v.sources {
		f.addSource(s)
	}
}

// Leave gives a reference back.
func (v *View) Leave(f *Feed) {
	if f.users--; f.users > 0 {
		return
	}
	if f.Format.Plain() != f.Format {
		v.compressed.Add(-1)
	}
	if f.pace != nil {
		f.pace.stop()
	}
	if v.feeds[f.key] == f { // not after a Reset
		delete(v.feeds, f.key)
	}
	delete(v.wild, f)
	for t := range f.topics {
		delete(t.feeds, f)
		v.forget(t)
	}
	for p := range f.polls {
		delete(p.feeds, f)
	}
	for s := range f.sources {
		delete(s.feeds, f)
	}
}

// disconnect unlinks a feed from everything, and keeps its references.
func (f *Feed) disconnect() {
	clear(f.topics)
	clear(f.polls)
	clear(f.sources)
}

func (f *Feed) addTopic(t *topicState) { t.feeds[f], f.topics[t] = struct{}{}, struct{}{} }

// addPoll links the feed with a poll if its patterns cover it.
func (f *Feed) addPoll(p *pollState) {
	if coversPoll(f.Patterns, p.name) {
		p.feeds[f], f.polls[p] = struct{}{}, struct{}{}
	}
}

// addSource links the feed with a source if its patterns cover it.
func (f *Feed) addSource(s *sourceState) {
	if coversSource(f.Patterns, s.name) {
		s.feeds[f], f.sources[s] = struct{}{}, struct{}{}
	}
}

func (f *Feed) dropTopic(t *topicState) {
	delete(f.topics, t)
	if f.pace != nil {
		delete(f.pace.topics, t)
		delete(f.pace.sent, t)
	}
}

// append adds a whole frame, an event's if seq is set, and wakes the connections.
func (f *Feed) append(frame []byte, seq uint64, now time.Time) {
	f.shown.expire(now) // they would keep every later chunk alive
	f.log.append(frame, seq, now)
	for _, g := range f.Groups {
		g.Wake()
	}
}

// Tip returns the cursor at the feed's end and the bytes before it.
func (v *View) Tip(f *Feed) (Cursor, uint64) { return f.log.tip() }

// heldFresh returns a poll's freshness that the pacer holds back.
func (f *Feed) heldFresh(p *pollState) (fr event.Freshness, held bool) {
	if f.pace != nil {
		fr, held = f.pace.polls[p]
	}
	return fr, held
}

// cost returns what the feed takes beside its chunks, in bytes.
func (f *Feed) cost() int64 {
	return memory.FeedCost + f.named + int64(len(f.topics)+len(f.polls))*memory.LinkCost
}
