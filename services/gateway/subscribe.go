package gateway

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/pollcast/pollcast/pkg/topic"
	"github.com/pollcast/pollcast/pkg/wire"
)

// subscriptions are the patterns of one connection, in the order they came.
type subscriptions struct {
	patterns []string
	maxHz    float64 // of them all
}

// A subscribing is a subscribe frame on its way into a feed.
type subscribing struct {
	req           *wire.Subscribe
	patterns      []string  // the connection's, with those of the frame
	before, after []string  // the connection's patterns before and after it, canonical
	came          time.Time // since when its client has been waiting for what it has seen
	seenSeq       uint64    // what its client has seen of this stream

	joined *feed // a reference is held; nil at first
	filled *gap  // what was read back for it; nil: nothing
	answer wire.Subscribed
	begin  opening // what goes out after the answer; without a place: nothing
	done   func()  // gives back the memory of begin's frames
}

// subscribe adds patterns to a connection. The answer, the snapshot (or the
// replay) of what is new and the live frames after it come without gap or
// repetition: all three are taken at one position of the stream. If a replay
// needs what the history does not hold, that is read back without the hub's
// mutex, and entering is tried again at the position of then. The reader calls it.
func (s *server) subscribe(c *conn, id uint64, req *wire.Subscribe) *wire.Error {
	if err := s.checkSubscribe(c, req); err != nil {
		return err
	}
	e := &subscribing{req: req, patterns: c.subs.patterns, done: func() {}}
	for _, p := range req.Topics {
		if !slices.Contains(e.patterns, p) {
			e.patterns = append(e.patterns, p)
		}
	}
	e.before, e.after = topic.Canonical(c.subs.patterns), topic.Canonical(e.patterns)
	e.came = s.awaitSeen(c, req)
	for release := func() {}; ; {
		missing, err := s.enterFeed(c, e)
		release()
		if err != nil {
			return err
		}
		if missing == nil {
			break
		}
		e.filled = missing
		release = s.readbacks.fill(s, missing)
	}
	defer e.done()
	answer := encode(c.format.plain(), &wire.ServerFrame{ID: id, Subscribed: &e.answer})
	if e.joined == nil { // nothing new
		c.send(answer)
		return nil
	}
	steps := []step{{data: answer}}
	if data := e.begin.frames(c.format); len(data) > 0 {
		steps = append(steps, step{data: data})
	}
	c.enter(append(steps, step{feed: e.joined, cur: e.begin.cur, pos: e.begin.pos})...)
	c.writer.push(job{conn: c, what: jobMove})
	return nil
}

// enterFeed puts a connection into the feed of its patterns, at the hub's
// position. If that needs what the history does not hold, it returns what is
// missing; the caller calls it again when that is filled.
func (s *server) enterFeed(c *conn, e *subscribing) (missing *gap, werr *wire.Error) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	refuse := func(message string) (*gap, *wire.Error) {
		if e.joined != nil {
			h.leave(e.joined)
		}
		return nil, &wire.Error{Code: wire.CodeUnavailable, Retryable: true, Message: message}
	}
	e.seenSeq = h.seenSeq(e.req)
	setBack := e.seenSeq > h.seq
	if setBack && h.maybeOlder(e.came) {
		return refuse("this gateway has not read the stream as far as you have seen it; try again later, or at another one")
	}
	e.answer = wire.Subscribed{Topics: e.req.Topics, Epoch: h.epoch, Seq: h.seq}
	old := c.feed.Load()
	if old != nil && slices.Equal(e.before, e.after) {
		c.holds(e.patterns)
		return nil, nil
	}
	if e.joined == nil {
		if n := h.unknown(e.req.Topics); n > 0 && h.waited()+n > h.maxTopics {
			return refuse("as many topics that have no value are waited for as this gateway can hold; try again later")
		}
		e.joined = h.join(e.after, c.format, e.req.MaxHz, h.now())
	}
	if missing = s.open(e, old == nil, setBack); missing != nil {
		return missing, nil
	}
	if e.done = s.budget.pass(e.begin.cost()); e.done == nil {
		return refuse(errShort.Error() + "; try again later")
	}
	c.holds(e.patterns)
	c.subs.maxHz = e.req.MaxHz
	c.latest.Store(isLatest(e.req))
	if old != nil {
		h.settle(old, h.now())
		c.enter(step{until: old.end.Load(), seq: h.seq})
		h.leave(old)
	}
	c.goTo(e.joined, e.begin.cur, e.begin.pos)
	return nil, nil
}

// open chooses what a subscription begins with: a replay if it can resume, or a
// snapshot. With share, those who come together get the same bytes. setBack says
// that the stream does not reach what the client has seen. The caller holds the
// hub's mutex.
func (s *server) open(e *subscribing, share, setBack bool) (missing *gap) {
	h := s.hub
	if setBack {
		e.seenSeq = 0
	}
	h.settle(e.joined, h.now())
	if e.req.Since != nil {
		r := replayed{reason: wire.NotResumedEpoch}
		if !setBack {
			e.begin, r = h.replay(e.joined, e.before, e.req.Since, share, e.seenSeq, e.filled)
		}
		if r.missing != nil {
			return r.missing
		}
		if r.cutShort {
			s.logUnread(errCutShort)
		}
		e.answer.Reason, e.answer.Resumed = r.reason, r.reason == ""
		s.metrics.resumes.WithLabelValues(cmp.Or(r.reason, "complete")).Inc()
	}
	if !e.answer.Resumed {
		e.begin = h.snapshot(e.joined, e.before, share, e.seenSeq)
	}
	e.answer.Seq = e.begin.seq
	return nil
}

// goTo notes the feed that the connection goes to, and its place there. nil is
// none. The caller holds the hub's mutex.
func (c *conn) goTo(f *feed, cur cursor, pos uint64) {
	c.entered.Store(pos)
	c.enteredOwn.Store(cur.owned())
	c.feed.Store(f)
}

// isLatest reports whether a subscription may skip events.
func isLatest(req *wire.Subscribe) bool { return req.Delivery == wire.DeliverLatest || req.MaxHz > 0 }

func (s *server) checkSubscribe(c *conn, req *wire.Subscribe) *wire.Error {
	fail := func(code wire.ErrorCode, format string, args ...any) *wire.Error {
		return &wire.Error{Code: code, Message: fmt.Sprintf(format, args...), Retryable: code.Retryable()}
	}
	if len(req.Topics) == 0 {
		return fail(wire.CodeInvalidTopic, `subscribe needs at least one topic, such as {"subscribe":{"topics":["host.>"]}}`)
	}
	for _, p := range req.Topics {
		if err := topic.CheckPattern(p); err != nil {
			return fail(wire.CodeInvalidTopic, "%v", err)
		}
	}
	if n := len(c.subs.patterns) + len(req.Topics); n > s.cfg.MaxTopics {
		return fail(wire.CodeLimit, "%d topics are more than the %d a connection may hold", n, s.cfg.MaxTopics)
	}
	switch req.Delivery {
	case "", wire.DeliverAll, wire.DeliverLatest:
	default:
		return fail(wire.CodeInvalid, "delivery %q: use %q or %q", req.Delivery, wire.DeliverAll, wire.DeliverLatest)
	}
	switch hz := req.MaxHz; {
	case hz != 0 && (hz < minHz || hz > maxHz): // also NaN
		return fail(wire.CodeInvalid, "maxHz %v: use %v to %v, or 0 for no limit", hz, minHz, maxHz)
	case hz != 0 && req.Delivery == wire.DeliverAll:
		return fail(wire.CodeInvalid, `maxHz %v skips events: use it with delivery "latest"`, hz)
	case len(c.subs.patterns) > 0 && (hz != c.subs.maxHz || isLatest(req) != c.latest.Load()):
		return fail(wire.CodeInvalid, "all subscriptions of a connection have the same delivery and maxHz; open another connection for others")
	}
	if req.Replay != "" && req.Replay != "latest" {
		return fail(wire.CodeInvalid, `replay %q: this gateway knows "latest"`, req.Replay)
	}
	return nil
}

// holds sets the connection's subscriptions. Reader's.
func (c *conn) holds(patterns []string) {
	size := func(list []string) (n int64) {
		for _, p := range list {
			n += int64(len(p)) + 32
		}
		return n
	}
	c.extra.Add(size(patterns) - size(c.subs.patterns))
	c.subs.patterns = patterns
}

// unsubscribe takes patterns away. No frame of theirs follows the answer.
// Reader's.
func (s *server) unsubscribe(c *conn, id uint64, req *wire.Unsubscribe) *wire.Error {
	all := slices.DeleteFunc(slices.Clone(c.subs.patterns), func(p string) bool { return slices.Contains(req.Topics, p) })
	answer := encode(c.format.plain(), &wire.ServerFrame{ID: id, Unsubscribed: &wire.Unsubscribed{Topics: req.Topics}})
	before, after := topic.Canonical(c.subs.patterns), topic.Canonical(all)
	c.holds(all)
	old := c.feed.Load()
	if old == nil || slices.Equal(before, after) {
		c.send(answer)
		return nil
	}
	h := s.hub
	h.mu.Lock()
	h.settle(old, h.now())
	steps := []step{{until: old.end.Load(), seq: h.seq}, {data: answer}}
	h.leave(old)
	var f *feed
	if len(after) > 0 {
		f = h.join(after, c.format, c.subs.maxHz, h.now())
		cur, pos := f.tip()
		steps = append(steps, step{feed: f, cur: cur, pos: pos})
		c.goTo(f, cur, pos)
	} else {
		c.feed.Store(nil)
	}
	c.enter(steps...)
	h.mu.Unlock()
	c.writer.push(job{conn: c, what: jobMove})
	return nil
}
