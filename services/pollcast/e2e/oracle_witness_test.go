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

// witness is a client that connects and leaves, reads at its own speed, changes
// its subscriptions, and records everything that it receives. The record is
// checked at the end (oracle_judge_test.go). What can be checked without the
// ledger is checked at once.
type witness struct {
	name  string
	kind  witnessKind
	world *world
	rng   *rand.Rand

	wants    []string // what it subscribes to
	had      []string // the patterns of which it has everything up to pos
	pos      place
	posOK    bool
	covered  []string // the patterns whose snapshot or replay is complete on this connection
	pending  []string // requested, but not complete yet
	waiting  bool     // it waits for an answer or for a complete snapshot
	resuming bool     // it resumes on this connection
	nextID   uint64
	barrier  uint64               // the ping whose pong follows the snapshot
	base     uint64               // the position where live events begin after it
	asOf     map[string]time.Time // on this connection

	mu           sync.Mutex
	record       []entry
	final        map[string]freshness // the last one received
	last         map[string]uint64    // sequence number of the last event per topic
	broken       []string
	resumes      int
	refused      map[string]int // resumed:false, by reason
	conns        int
	stalePeriods []stalePeriod
	receivedAt   time.Time // when the last frame arrived
}

type freshness struct {
	asOf   time.Time
	stale  bool
	reason string
	conn   int
}

// stalePeriod begins when a connection reports that a poll became stale or fresh,
// when it begins, and when it ends (without a poll).
type stalePeriod struct {
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
	naive  bool // never sends since
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

// entryKind is the kind of an entry in a record.
type entryKind uint8

const (
	begun    entryKind = iota // topics are covered from a position
	answered                  // the snapshot of what begun is complete
	dropped                   // topics are no longer covered
	lost                      // the connection ended
	happened                  // an event
)

// entry is one entry of a record.
type entry struct {
	kind entryKind
	conn int
	// For begun and dropped:
	topics  []string
	seq     uint64 // begun: events after it are due; happened: of the event
	resumed bool
	// For happened:
	topic   string
	version uint64
	phase   string
	deleted bool
	data    uint64 // hash of the value
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
	return fmt.Sprintf("connection %d: %s %s at %d, version %d, deleted %v", e.conn, e.phase, e.topic, e.seq, e.version,
		e.deleted)
}

func (w *witness) write(e entry) {
	e.conn = w.conns
	w.mu.Lock()
	w.record = append(w.record, e)
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
		w.period(stalePeriod{at: time.Now()})
		w.read(ctx, l)
		w.period(stalePeriod{at: time.Now(), end: true})
		l.hangUp()
		w.write(entry{kind: lost})
		if w.world.calm.Load() {
			sleep(ctx, 50*time.Millisecond)
			continue
		}
		switch w.rng.IntN(10) {
		case 0: // a longer pause
			sleep(ctx, w.upTo(8*time.Second))
		case 1, 2, 3:
			sleep(ctx, w.upTo(time.Second))
		default:
			sleep(ctx, w.upTo(100*time.Millisecond))
		}
	}
}

func (w *witness) period(s stalePeriod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.conn = w.conns
	w.stalePeriods = append(w.stalePeriods, s)
}

func (w *witness) upTo(d time.Duration) time.Duration { return time.Duration(w.rng.Int64N(int64(d))) }

func (w *witness) dial(ctx context.Context, addr string) (transport, error) {
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

// begin clears the state of the last connection.
func (w *witness) begin(resuming bool) {
	w.mu.Lock()
	w.conns++
	w.mu.Unlock()
	w.resuming, w.covered, w.pending, w.barrier, w.waiting = resuming, nil, nil, 0, false
	w.asOf = map[string]time.Time{}
}

// read receives from a connection until it ends or the witness leaves.
func (w *witness) read(ctx context.Context, l transport) {
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
		h, err := l.receive()
		if err != nil {
			return
		}
		w.mu.Lock()
		w.receivedAt = time.Now()
		w.mu.Unlock()
		if !w.take(l, h, time.Now()) || !calm && time.Now().After(leave) {
			return
		}
		if s, ok := l.(*sseTransport); ok && s.lastID != "" {
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

// subscribe requests topics. The answer shows what follows.
func (w *witness) subscribe(l transport, topics []string, resume bool) error {
	s := &subscribe{Topics: topics, MaxHz: w.kind.maxHz}
	if w.kind.latest {
		s.Delivery = "latest"
	}
	if resume {
		p := w.pos
		s.Since = &p
	}
	w.pending, w.waiting = topics, true
	return w.say(l, request{Subscribe: s})
}

func (w *witness) say(l transport, s request) error {
	w.nextID++
	s.ID = w.nextID
	return l.say(s)
}

// change removes a pattern or adds one.
func (w *witness) change(l transport) error {
	if len(w.wants) > 1 && w.rng.IntN(2) == 0 {
		i := w.rng.IntN(len(w.wants))
		gone := w.wants[i]
		w.wants = slices.Delete(slices.Clone(w.wants), i, i+1)
		w.had = slices.DeleteFunc(slices.Clone(w.had), func(p string) bool { return p == gone })
		w.waiting = true
		return w.say(l, request{Unsubscribe: &topicNames{[]string{gone}}})
	}
	if more := w.world.pattern(w.rng); !slices.Contains(w.wants, more) {
		w.wants = append(slices.Clone(w.wants), more)
	}
	return nil
}

// take records a frame; false ends the connection.
func (w *witness) take(l transport, h received, now time.Time) bool {
	switch {
	case h.Error != nil:
		w.world.count("error " + h.Error.Code)
		return false // the new connection brings it again
	case h.Subscribed != nil:
		return w.subscribed(l, h)
	case h.Unsubscribed != nil:
		w.waiting = false
		w.covered = slices.DeleteFunc(slices.Clone(w.covered),
			func(p string) bool { return slices.Contains(h.Unsubscribed.Topics, p) })
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
		return w.rng.IntN(2) == 0 || w.world.calm.Load() // some leave at once
	}
	return true
}

func (w *witness) subscribed(l transport, h received) bool {
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
			w.complain("the stream was never created again, but the answer to %+v is %+v", w.pos, *s)
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
	return w.say(l, request{Ping: &struct{}{}}) == nil
}

// synced must be called when the snapshot or replay is complete.
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

func (w *witness) event(h received) {
	e := h.Event
	w.write(entry{kind: happened, topic: e.Topic, seq: e.Seq, version: e.Version, phase: e.Phase, deleted: e.Deleted,
		data: hash(e.Data)})
	w.mu.Lock()
	w.last[e.Topic] = e.Seq
	w.mu.Unlock()
	w.judge("event", e.Topic, e.Poll, e.AsOf, e.Stale, e.Reason)
	if age := time.Duration(e.AgeMs) * time.Millisecond; e.Phase != "replay" && !e.Stale && age > staleBy {
		w.complain("connection %d: %s %s at %d is not called stale at an age of %v: %+v", w.conns, e.Phase, e.Topic, e.Seq,
			age, *e)
	}
	// Live events and a replay come in the order of the stream.
	if e.Phase == "live" && len(w.pending) == 0 || e.Phase == "replay" {
		w.pos.Seq = max(w.pos.Seq, e.Seq)
	}
}

// staleBy is the age from which every value must be stale, however it was
// delayed.
const staleBy = rushMaxAge + time.Second + staleGrace

func (w *witness) fresh(h received, now time.Time) {
	f := h.Fresh
	w.judge("freshness", "", f.Poll, f.AsOf, f.Stale, f.Reason)
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.final[f.Poll]
	w.final[f.Poll] = freshness{f.AsOf, f.Stale, f.Reason, w.conns}
	if before.stale != f.Stale || before.conn != w.conns {
		w.stalePeriods = append(w.stalePeriods, stalePeriod{conn: w.conns, poll: f.Poll, stale: f.Stale, at: now})
	}
}

// judge checks a frame's freshness against the earlier ones: asOf never
// decreases, neither a topic's nor a poll's, and a stale value has a reason.
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
