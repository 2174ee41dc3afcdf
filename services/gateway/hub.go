package gateway

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/throttle"
	"github.com/pollcast/pollcast/pkg/topic"
	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/ws"
)

// A topicState is what the gateway knows of a topic. Without a value it stands
// for a topic that somebody waits for.
type topicState struct {
	name  string
	poll  *pollState
	last  *event.Event // nil: no value (yet, or any more)
	seq   uint64       // of last
	feeds map[*feed]struct{}

	shrunk []byte // last's value compressed; nil: it was not
	bytes  int64  // of last's value, in both forms
}

// A sourceState is what the gateway knows of a source.
type sourceState struct {
	name  string
	feeds map[*feed]struct{}
}

// A hub knows the last value of every topic and the freshness of every poll,
// and who wants to hear of them. It never waits for a client: to tell them is
// an append to the feeds.
type hub struct {
	writers   []*writer
	metrics   *metrics
	log       *slog.Logger
	maxTopics int
	budget    *budget
	now       func() time.Time

	mu      sync.Mutex
	epoch   string    // "" until the stream was read once
	seq     uint64    // position: everything up to it is in the maps
	lived   time.Time // when the last record came straight from the stream
	proved  time.Time // lived, when NATS last said that there is no more
	busDown bool
	why     string // why the bus is down
	topics  map[string]*topicState
	polls   map[string]*pollState
	sources map[string]*sourceState
	feeds   map[string]*feed
	wild    map[*feed]struct{} // those with a wildcard among their patterns
	full    bool               // the topic limit was hit, and said
	history history
	told    uint64 // counts freshness told

	clockLog throttle.Gate // of lines about a clock that is ahead

	ready     []byte       // the value of the event that is taken in, compressed before; nil: it was not
	deflating atomic.Int64 // feeds that are compressed, for who does not hold mu

	valued     int   // topics that have a value
	valueBytes int64 // of the last values

	// onShort makes room in the budget.
	onShort func()
	// onReset ends every connection: what they know is of another epoch.
	onReset func()
}

func newHub(writers []*writer, maxTopics, maxHistory int, m *metrics, log *slog.Logger) *hub {
	h := &hub{
		writers: writers, metrics: m, log: log, maxTopics: maxTopics, now: time.Now,
		busDown: true, why: "starting", onReset: func() {}, onShort: func() {},
		feeds: map[string]*feed{}, wild: map[*feed]struct{}{}, history: history{max: maxHistory, maxBytes: historyBytes}, budget: newBudget(maxBudget),
	}
	h.clear()
	return h
}

func (h *hub) clear() {
	h.valueBytes, h.valued = 0, 0
	h.topics = map[string]*topicState{}
	h.polls = map[string]*pollState{}
	h.sources = map[string]*sourceState{}
}

// topic returns the state of a topic, made when it is not there.
func (h *hub) topic(name string) *topicState {
	t := h.topics[name]
	if t == nil {
		t = &topicState{name: name, feeds: map[*feed]struct{}{}}
		h.topics[name] = t
		for f := range h.wild { // who has it by name is there already, or is why it is made
			if matchAny(f.patterns, name) {
				t.feeds[f], f.topics[t] = struct{}{}, struct{}{}
			}
		}
	}
	return t
}

// fits reports whether a topic may have a value: those beyond maxTopics are
// not served, nor new ones once values take half of the memory budget.
func (h *hub) fits(name string) bool {
	if t := h.topics[name]; t != nil && t.last != nil {
		return true
	}
	bound := "maxTopics"
	if h.valued < h.maxTopics {
		if h.valueBytes+int64(h.valued)*topicCost < h.budget.part(50) {
			return true
		}
		bound = "memoryBudget"
	}
	if !h.full {
		h.full = true
		h.log.Error("more topics than this gateway can hold: those beyond it are not served", "bound", bound, "topics", h.valued, "value_bytes", h.valueBytes, "topic", name)
	}
	return false
}

// waited is how many topics are known only because somebody waits for them. Of
// them, too, there are no more than maxTopics.
func (h *hub) waited() int { return len(h.topics) - h.valued }

// unknown is how many of the patterns name a topic that is not known.
func (h *hub) unknown(patterns []string) (n int) {
	for _, p := range patterns {
		if h.topics[p] == nil && !topic.IsPattern(p) {
			n++
		}
	}
	return n
}

func (h *hub) poll(name string) *pollState {
	p := h.polls[name]
	if p == nil {
		p = &pollState{name: name, feeds: map[*feed]struct{}{}}
		h.polls[name] = p
		for _, f := range h.feeds {
			if coversPoll(f.patterns, name) {
				p.feeds[f], f.polls[p] = struct{}{}, struct{}{}
			}
		}
	}
	return p
}

func (h *hub) source(name string) *sourceState {
	s := h.sources[name]
	if s == nil {
		s = &sourceState{name: name, feeds: map[*feed]struct{}{}}
		h.sources[name] = s
		for _, f := range h.feeds {
			if coversSource(f.patterns, name) {
				s.feeds[f], f.srcs[s] = struct{}{}, struct{}{}
			}
		}
	}
	return s
}

// apply takes one record in. The caller holds the mutex and sets h.seq.
func (h *hub) apply(m *bus.Message, heard, now time.Time) {
	switch {
	case m.Event != nil:
		h.applyEvent(m.Event, m.Seq, heard, now)
	case m.Fresh != nil:
		p := h.poll(m.Fresh.Poll)
		p.carry(m.Fresh)
		p.record, p.seq = m.Fresh, m.Seq
		p.lag.observe(m.Fresh.CheckedAt, m.Fresh.Fence, heard)
		p.heard = later(p.heard, p.lag.here(m.Fresh.CheckedAt, heard))
		h.tellFresh(p, p.fresh(now, h.busDown), now)
	case m.Breaker != nil:
		h.tell(h.source(m.Breaker.Source).feeds, &wire.ServerFrame{Breaker: m.Breaker}, now)
	}
}

func (h *hub) applyEvent(e *event.Event, seq uint64, heard, now time.Time) {
	if !h.fits(e.Topic) {
		h.metrics.topicsRefused.Inc()
		return
	}
	t := h.topic(e.Topic)
	p := h.poll(e.Poll)
	if e.Topic == e.Poll || p.record == nil {
		p.heard = later(p.heard, p.lag.here(e.AsOf, heard))
	}
	if e.Topic == e.Poll {
		p.asOf, p.asOfSeq, p.walks = later(p.asOf, e.AsOf), seq, e.Position != nil
	}
	if t.last != nil && t.last.Version+1 != e.Version && !e.Deleted { // a deletion takes what was before it along
		h.history.restart(seq - 1) // the stream has lost events in between
	}
	h.history.add(e, seq)
	if t.last == nil {
		h.valued++
	}
	t.poll, t.last, t.seq = p, e, seq
	h.valueBytes -= t.bytes
	t.shrunk, t.bytes = h.ready, int64(len(e.Data)+len(h.ready))
	h.valueBytes += t.bytes
	h.tellEvent(t, now)
	if e.Deleted {
		h.valueBytes -= t.bytes
		h.valued--
		t.last, t.shrunk, t.bytes = nil, nil, 0
		h.forget(t)
	}
}

// liveFrame is the frame of an event now.
func (h *hub) liveFrame(e past, now time.Time) wire.ServerFrame {
	p := h.poll(e.e.Poll)
	fr := h.trust(e, p.fresh(now, h.busDown), now)
	if !fr.Stale && !p.recent(fr.AsOf, now) { // the poll's record speaks of later values
		fr.Stale, fr.Reason = true, event.PollerSilent
	}
	f := eventFrame(e.e, e.seq, wire.Live, fr, now)
	f.Event.Epoch = h.epoch
	return f
}

// trust is how far an event's value can be trusted, given its poll's freshness.
func (h *hub) trust(e past, fr event.Freshness, now time.Time) event.Freshness {
	if t := h.topics[e.e.Topic]; t != nil && t.seq == e.seq {
		return h.poll(e.e.Poll).trust(e.e, e.seq, fr, now)
	}
	fr.AsOf = e.e.AsOf // a later value was confirmed since, not this one
	return fr
}

// forget drops a topic that has no value, unless somebody asked for it by name.
func (h *hub) forget(t *topicState) {
	if t.last != nil {
		return
	}
	for f := range t.feeds {
		if slices.Contains(f.patterns, t.name) {
			return
		}
	}
	for f := range t.feeds {
		delete(f.topics, t)
		if f.pace != nil {
			delete(f.pace.topics, t)
			delete(f.pace.sent, t)
		}
	}
	delete(h.topics, t.name)
}

// tell appends a frame, encoded once, to the feeds.
func (h *hub) tell(feeds map[*feed]struct{}, frame *wire.ServerFrame, now time.Time) {
	if len(feeds) == 0 {
		return
	}
	o := once{frame: frame}
	for f := range feeds {
		f.append(h.framed(&o, f.format), 0, now)
	}
}

// framed encodes a frame for feeds.
func (h *hub) framed(o *once, fm format) []byte {
	if o.bytes[fm] != nil {
		return o.bytes[fm]
	}
	var b []byte
	if p := fm.plain(); p == fm {
		b = encode(fm, o.frame)
		h.budget.share(b)
	} else {
		whole := h.framed(o, p)
		if b = o.deflated(whole); b[0]&ws.Compressed != 0 {
			h.metrics.compressed.Inc()
			h.budget.share(b)
		}
	}
	o.bytes[fm] = b
	return b
}

// tellEvent tells clients of a topic's last event.
func (h *hub) tellEvent(t *topicState, now time.Time) {
	o := once{shrunk: t.shrunk}
	for f := range t.feeds {
		if f.pace != nil {
			if !t.last.Deleted {
				h.hold(f, t, now)
				continue
			}
			delete(f.pace.topics, t)
			h.tick(f, now) // a deletion is told at once, after what was before it
		}
		if o.frame == nil {
			frame := h.liveFrame(past{t.last, t.seq}, now)
			o.frame = &frame
		}
		f.append(h.framed(&o, f.format), t.seq, now)
		if f.pace != nil {
			f.pace.seq = max(f.pace.seq, t.seq)
		}
	}
}

// tellFresh tells clients how far a poll's values can be trusted now.
func (h *hub) tellFresh(p *pollState, fr event.Freshness, now time.Time) {
	changed := fr.Stale != p.told.Stale || fr.Reason != p.told.Reason
	h.told++
	p.told, p.toldAt = fr, h.told
	o := once{frame: &wire.ServerFrame{Fresh: &fr}}
	for f := range p.feeds {
		if changed {
			f.snap, f.past = nil, nil // they would show newcomers what is true no more
		}
		if f.pace != nil && h.holdFresh(f, p, fr, changed, now) {
			continue
		}
		f.append(h.framed(&o, f.format), 0, now)
		f.told = h.told
	}
}

// sweep tells clients of polls that went silent. A silent poll is found within
// maxAge + silenceGrace + the sweep's period.
func (h *hub) sweep(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.retell(now)
}

// retell tells clients of every poll whose freshness changed without a record.
func (h *hub) retell(now time.Time) {
	stale := 0
	var ahead *pollState
	for _, p := range h.polls {
		if ahead == nil || p.lag.least < ahead.lag.least {
			ahead = p
		}
		f := p.fresh(now, h.busDown)
		if f.Stale {
			stale++
		}
		if p.record == nil && !f.Stale {
			continue // its first record is on its way
		}
		if worthTelling(p.told, f) {
			h.tellFresh(p, f, now)
		}
	}
	h.sayAhead(ahead, now)
	h.metrics.pollsStale.Set(float64(stale))
	h.metrics.polls.Set(float64(len(h.polls)))
	h.metrics.topics.Set(float64(len(h.topics)))
	h.metrics.feeds.Set(float64(len(h.feeds)))
}

// sayAhead says of the poll whose poller's clock is ahead most by how much it is
// so: an age is told by two clocks, and too small by that.
func (h *hub) sayAhead(p *pollState, now time.Time) {
	if p == nil {
		return
	}
	d := max(0, -p.lag.least)
	h.metrics.clockAhead.Set(d.Seconds())
	if d > clocksAgree && h.clockLog.Pass(now, sayAheadEvery) > 0 {
		h.log.Warn("a poller's clock is ahead of this gateway's: values look too young by that; keep both in step with NTP", "poll", p.name, "ahead", d.Round(time.Millisecond))
	}
}

// join returns the feed of a set of patterns in a format, at a rate (0: every
// event), made when it is not there, and counts a reference. The caller holds
// the mutex.
func (h *hub) join(patterns []string, fm format, maxHz float64, now time.Time) *feed {
	key := fmt.Sprintf("%d %v\n%s", fm, maxHz, strings.Join(patterns, "\n"))
	f := h.feeds[key]
	if f == nil {
		f = newFeed(key, patterns, fm, h.seq, h.told, now)
		f.budget, f.named = h.budget, int64(2*len(key)+32*len(patterns))
		if maxHz > 0 {
			f.pace = newPacer(maxHz)
			f.pace.seq = h.seq
		}
		for _, w := range h.writers {
			f.groups = append(f.groups, &group{writer: w, feed: f})
		}
		h.feeds[key] = f
		if fm.plain() != fm {
			h.deflating.Add(1)
		}
		wild := false
		for _, p := range patterns {
			if topic.IsPattern(p) {
				wild = true
			} else {
				t := h.topic(p)
				t.feeds[f], f.topics[t] = struct{}{}, struct{}{}
			}
		}
		if wild {
			h.wild[f] = struct{}{}
			for _, t := range h.topics {
				if matchAny(patterns, t.name) {
					t.feeds[f], f.topics[t] = struct{}{}, struct{}{}
				}
			}
		}
		for _, p := range h.polls {
			if coversPoll(patterns, p.name) {
				p.feeds[f], f.polls[p] = struct{}{}, struct{}{}
			}
		}
		for _, s := range h.sources {
			if coversSource(patterns, s.name) {
				s.feeds[f], f.srcs[s] = struct{}{}, struct{}{}
			}
		}
	}
	if f.conns++; f.conns == 1 {
		h.budget.grow(feedCost + f.named + int64(len(f.topics)+len(f.polls))*linkCost + minChunk)
	}
	return f
}

// leave gives a reference back. The caller holds the mutex.
func (h *hub) leave(f *feed) {
	if f.conns--; f.conns > 0 {
		return
	}
	if f.format.plain() != f.format {
		h.deflating.Add(-1)
	}
	if f.pace != nil {
		f.pace.stop()
	}
	if h.feeds[f.key] == f { // not after a Reset
		delete(h.feeds, f.key)
	}
	delete(h.wild, f)
	for t := range f.topics {
		delete(t.feeds, f)
		h.forget(t)
	}
	for p := range f.polls {
		delete(p.feeds, f)
	}
	for s := range f.srcs {
		delete(s.feeds, f)
	}
}

func matchAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return topic.Match(p, name) })
}

func coversPoll(patterns []string, poll string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return topic.CoversPoll(p, poll) })
}

func coversSource(patterns []string, source string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return topic.CoversSource(p, source) })
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// shrinkLeast is the shortest value, in bytes, that is compressed before the
// hub's mutex is taken.
const shrinkLeast = 1 << 10

// shrunk returns the messages' values compressed; nil if no feed is compressed.
func (h *hub) shrunk(msgs []bus.Message) [][]byte {
	if h.deflating.Load() == 0 {
		return nil
	}
	out := make([][]byte, len(msgs))
	for i := range msgs {
		if e := msgs[i].Event; e != nil && len(e.Data) >= shrinkLeast {
			out[i] = ws.CompressValue(e.Data)
		}
	}
	return out
}
