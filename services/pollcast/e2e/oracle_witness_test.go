package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// A witness is a client that comes, goes, reads as fast as it likes, changes
// its mind about what it wants, and writes down everything that it hears. What
// it heard is judged in the end (oracle_judge_test.go); what can be judged
// without knowing the truth is judged at once.
type witness struct {
	name  string
	kind  witnessKind
	world *world
	rng   *rand.Rand

	wants    []string // what it subscribes to
	had      []string // of which it had everything up to pos
	pos      place
	posOK    bool
	covered  []string // by this connection, whose snapshot or replay is complete
	pending  []string // asked for, but not complete yet
	waiting  bool     // for an answer, or for a snapshot to be complete
	resuming bool     // asked so on this connection
	nextID   uint64
	barrier  uint64               // the ping behind the snapshot
	base     uint64               // where live begins after it
	asOf     map[string]time.Time // as this connection said

	mu      sync.Mutex
	diary   []entry
	final   map[string]freshness // last known
	last    map[string]uint64    // sequence number of the last event per topic
	broken  []string
	resumes int
	refused map[string]int // resumed:false, by reason
	conns   int
	spells  []spell
	heard   time.Time // when the last frame came
}

type freshness struct {
	asOf   time.Time
	stale  bool
	reason string
	conn   int
}

// A spell begins when a connection says that a poll is stale, or no longer so,
// when it begins, and when it ends (without a poll).
type spell struct {
	conn  int
	poll  string
	stale bool
	end   bool
	at    time.Time
}

// witnessKind is how a witness behaves.
type witnessKind struct {
	name   string
	binary bool
	sse    bool
	latest bool
	maxHz  float64
	slow   bool // reads slowly, through a small socket
	fickle bool // subscribes and unsubscribes
	naive  bool // never says since
}

var witnessKinds = []witnessKind{
	{name: "json"},
	{name: "proto", binary: true},
	{name: "sse", sse: true},
	{name: "fickle", fickle: true},
	{name: "fickle proto", fickle: true, binary: true},
	{name: "latest", latest: true},
	{name: "latest slow", latest: true, slow: true},
	{name: "latest slow proto", latest: true, slow: true, binary: true},
	{name: "paced", latest: true, maxHz: 4},
	{name: "paced slow", latest: true, maxHz: 20, slow: true},
	{name: "slow", slow: true},
	{name: "sse slow", sse: true, slow: true},
	{name: "naive", naive: true},
	{name: "fickle latest", fickle: true, latest: true},
}

// entryKind is what an entry of a diary is about.
type entryKind uint8

const (
	begun    entryKind = iota // topics are covered from a position on
	answered                  // what begun with a snapshot has it whole
	dropped                   // topics are no longer covered
	lost                      // the connection ended
	happened                  // an event
)

// An entry is one line of a diary.
type entry struct {
	kind entryKind
	conn int
	// begun, dropped
	topics  []string
	seq     uint64 // begun: after which events are due; happened: the event's
	resumed bool
	// happened
	topic   string
	version uint64
	phase   string
	deleted bool
	data    uint64 // its hash
}

func (e entry) String() string {
	switch e.kind {
	case begun:
		return fmt.Sprintf("connection %d begins %v after %d, resumed %v", e.conn, e.topics, e.seq, e.resumed)
	case answered:
		return fmt.Sprintf("connection %d has its snapshot", e.conn)
	case dropped:
		return fmt.Sprintf("connection %d ends %v", e.conn, e.topics)
	case lost:
		return fmt.Sprintf("connection %d is lost", e.conn)
	}
	return fmt.Sprintf("connection %d: %s %s at %d, version %d, deleted %v", e.conn, e.phase, e.topic, e.seq, e.version, e.deleted)
}

func (w *witness) write(e entry) {
	e.conn = w.conns
	w.mu.Lock()
	w.diary = append(w.diary, e)
	w.mu.Unlock()
}

func (w *witness) complain(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.broken) < maxBroken {
		w.broken = append(w.broken, fmt.Sprintf(format, args...))
	}
}

// live connects again and again until ctx ends.
func (w *witness) live(ctx context.Context) {
	for ctx.Err() == nil {
		gateways := w.world.gateways
		l, err := w.dial(ctx, gateways[w.rng.IntN(len(gateways))].addr)
		if err != nil {
			sleep(ctx, 100*time.Millisecond+w.upTo(400*time.Millisecond))
			continue
		}
		w.spell(spell{at: time.Now()})
		w.stay(ctx, l)
		w.spell(spell{at: time.Now(), end: true})
		l.hangUp()
		w.write(entry{kind: lost})
		if w.world.calm.Load() {
			sleep(ctx, 50*time.Millisecond)
			continue
		}
		switch w.rng.IntN(10) {
		case 0: // a longer time away
			sleep(ctx, w.upTo(8*time.Second))
		case 1, 2, 3:
			sleep(ctx, w.upTo(time.Second))
		default:
			sleep(ctx, w.upTo(100*time.Millisecond))
		}
	}
}

func (w *witness) spell(s spell) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.conn = w.conns
	w.spells = append(w.spells, s)
}

func (w *witness) upTo(d time.Duration) time.Duration { return time.Duration(w.rng.Int64N(int64(d))) }

func (w *witness) dial(ctx context.Context, addr string) (line, error) {
	if w.kind.sse {
		id := ""
		if w.posOK {
			id = fmt.Sprintf("%s:%d", w.pos.Epoch, w.pos.Seq)
		}
		l, err := dialSSE(ctx, addr, w.wants, id, w.kind.slow)
		if err != nil {
			return nil, err // not a typed nil
		}
		w.begin(w.posOK)
		return l, nil
	}
	l, err := dialWS(ctx, addr, w.kind.binary, w.kind.slow)
	if err == nil {
		w.begin(w.posOK && len(w.had) > 0 && !w.kind.naive)
	}
	return l, err
}

// begin forgets what was about the last connection.
func (w *witness) begin(resuming bool) {
	w.mu.Lock()
	w.conns++
	w.mu.Unlock()
	w.resuming, w.covered, w.pending, w.barrier, w.waiting = resuming, nil, nil, 0, false
	w.asOf = map[string]time.Time{}
}

// stay hears what a connection says until it ends, or the witness leaves.
func (w *witness) stay(ctx context.Context, l line) {
	stop := context.AfterFunc(ctx, l.hangUp)
	defer stop()
	leave := time.Now().Add(2*time.Second + time.Duration(w.rng.ExpFloat64()*float64(15*time.Second)))
	change := time.Now().Add(w.upTo(3 * time.Second))
	for {
		calm := w.world.calm.Load()
		if !w.kind.sse && !w.waiting {
			var err error
			missing := slices.DeleteFunc(slices.Clone(w.wants), func(p string) bool { return slices.Contains(w.covered, p) })
			switch {
			case w.resuming:
				err = w.subscribe(l, w.had, true)
			case len(missing) > 0:
				err = w.subscribe(l, missing, false)
			case w.kind.fickle && !calm && time.Now().After(change):
				change = time.Now().Add(w.upTo(2 * time.Second))
				err = w.change(l)
			}
			if err != nil {
				return
			}
		}
		h, err := l.hear()
		if err != nil {
			return
		}
		w.mu.Lock()
		w.heard = time.Now()
		w.mu.Unlock()
		if !w.take(l, h, time.Now()) || !calm && time.Now().After(leave) {
			return
		}
		if s, ok := l.(*sseLine); ok && s.lastID != "" {
			w.pos, w.posOK = parsePlace(s.lastID)
		}
		if w.kind.slow && !calm {
			sleep(ctx, w.upTo(30*time.Millisecond))
		}
	}
}

func parsePlace(id string) (p place, ok bool) {
	epoch, seq, ok := strings.Cut(id, ":")
	if ok {
		_, err := fmt.Sscan(seq, &p.Seq)
		ok = err == nil
	}
	p.Epoch = epoch
	return p, ok
}

// subscribe asks for topics; the answer says what comes.
func (w *witness) subscribe(l line, topics []string, resume bool) error {
	s := &subscribe{Topics: topics, MaxHz: w.kind.maxHz}
	if w.kind.latest {
		s.Delivery = "latest"
	}
	if resume {
		p := w.pos
		s.Since = &p
	}
	w.pending, w.waiting = topics, true
	return w.say(l, said{Subscribe: s})
}

func (w *witness) say(l line, s said) error {
	w.nextID++
	s.ID = w.nextID
	return l.say(s)
}

// change takes a pattern away, or adds one.
func (w *witness) change(l line) error {
	if len(w.wants) > 1 && w.rng.IntN(2) == 0 {
		i := w.rng.IntN(len(w.wants))
		gone := w.wants[i]
		w.wants = slices.Delete(slices.Clone(w.wants), i, i+1)
		w.had = slices.DeleteFunc(slices.Clone(w.had), func(p string) bool { return p == gone })
		w.waiting = true
		return w.say(l, said{Unsubscribe: &topicNames{[]string{gone}}})
	}
	if more := w.world.pattern(w.rng); !slices.Contains(w.wants, more) {
		w.wants = append(slices.Clone(w.wants), more)
	}
	return nil
}

// take writes a frame down; false ends the connection.
func (w *witness) take(l line, h heard, now time.Time) bool {
	switch {
	case h.Error != nil:
		w.world.count("error " + h.Error.Code)
		return false // it comes again
	case h.Subscribed != nil:
		return w.subscribed(l, h)
	case h.Unsubscribed != nil:
		w.waiting = false
		w.covered = slices.DeleteFunc(slices.Clone(w.covered), func(p string) bool { return slices.Contains(h.Unsubscribed.Topics, p) })
		w.write(entry{kind: dropped, topics: slices.Clone(w.covered)})
	case h.Pong != nil && h.ID == w.barrier:
		w.barrier, w.waiting = 0, false
		w.synced()
	case h.Event != nil:
		w.event(h)
	case h.Fresh != nil:
		w.fresh(h, now)
	case h.GoAway != nil:
		w.world.count("goaway")
		return w.rng.IntN(2) == 0 || w.world.calm.Load() // some go at once
	}
	return true
}

func (w *witness) subscribed(l line, h heard) bool {
	s := h.Subscribed
	first, asked := len(w.covered) == 0, w.resuming
	w.resuming = false
	if asked {
		w.mu.Lock()
		w.resumes++
		if !s.Resumed {
			w.refused[s.Reason]++
		}
		w.mu.Unlock()
		switch {
		case s.Resumed:
		case s.Reason == "":
			w.complain("asked to resume after %d and was not, without a reason", w.pos.Seq)
		case s.Reason == "epoch":
			w.complain("the stream was never made anew, but the answer to %+v is %+v", w.pos, *s)
		case s.Seq < w.pos.Seq:
			w.complain("asked for what comes after %d and was given what was at %d", w.pos.Seq, s.Seq)
		}
	}
	e := entry{kind: begun, topics: s.Topics, seq: s.Seq, resumed: s.Resumed}
	if s.Resumed {
		e.seq = w.pos.Seq
	} else if first {
		w.had, w.pos, w.posOK = nil, place{}, false
	}
	w.write(e)
	w.base, w.pos.Epoch = s.Seq, s.Epoch
	if w.kind.sse {
		return true
	}
	w.barrier = w.nextID + 1
	return w.say(l, said{Ping: &struct{}{}}) == nil
}

// synced: the snapshot or replay has come whole.
func (w *witness) synced() {
	for _, p := range w.pending {
		if !slices.Contains(w.covered, p) {
			w.covered = append(w.covered, p)
		}
	}
	w.pending, w.had = nil, slices.Clone(w.covered)
	w.pos.Seq, w.posOK = max(w.pos.Seq, w.base), true
	w.write(entry{kind: answered})
}

func (w *witness) event(h heard) {
	e := h.Event
	w.write(entry{kind: happened, topic: e.Topic, seq: e.Seq, version: e.Version, phase: e.Phase, deleted: e.Deleted, data: hash(e.Data)})
	w.mu.Lock()
	w.last[e.Topic] = e.Seq
	w.mu.Unlock()
	w.judge("event", e.Topic, e.Poll, e.AsOf, e.Stale, e.Reason)
	if age := time.Duration(e.AgeMs) * time.Millisecond; e.Phase != "replay" && !e.Stale && age > staleBy {
		w.complain("connection %d: %s %s at %d is not called stale at an age of %v: %+v", w.conns, e.Phase, e.Topic, e.Seq, age, *e)
	}
	// Live events and a replay come in the stream's order.
	if e.Phase == "live" && len(w.pending) == 0 || e.Phase == "replay" {
		w.pos.Seq = max(w.pos.Seq, e.Seq)
	}
}

// staleBy is the age from which on every value must be called stale, on whatever
// way it was held back.
const staleBy = rushMaxAge + time.Second + staleGrace

func (w *witness) fresh(h heard, now time.Time) {
	f := h.Fresh
	w.judge("freshness", "", f.Poll, f.AsOf, f.Stale, f.Reason)
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.final[f.Poll]
	w.final[f.Poll] = freshness{f.AsOf, f.Stale, f.Reason, w.conns}
	if before.stale != f.Stale || before.conn != w.conns {
		w.spells = append(w.spells, spell{conn: w.conns, poll: f.Poll, stale: f.Stale, at: now})
	}
}

// judge holds a frame's freshness against what went before: asOf never goes
// back, neither that of a topic nor that of a poll, and what is stale has a
// reason.
func (w *witness) judge(what, topic, poll string, asOf time.Time, stale bool, reason string) {
	if stale == (reason == "") {
		w.complain("%s of %s %s: stale %v with reason %q", what, poll, topic, stale, reason)
	}
	key := "topic " + topic
	if topic == "" {
		key = "poll " + poll
	}
	if before := w.asOf[key]; asOf.Before(before) {
		w.complain("connection %d: asOf of %s goes back from %v to %v", w.conns, key, before, asOf)
	}
	w.asOf[key] = asOf
}
