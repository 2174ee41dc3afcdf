package gateway

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/pollcast/pollcast/pkg/topic"
	"github.com/pollcast/pollcast/pkg/wire"
)

// subscriptions are the patterns of one connection, in the order they came.
type subscriptions struct {
	patterns []string
	maxHz    float64 // of them all
}

// subscribe adds patterns to a connection. The answer, the snapshot (or the
// replay) of what is new and the live frames after it come without gap or
// repetition: all three are taken at one position of the stream. Reader's.
func (s *server) subscribe(c *conn, id uint64, req *wire.Subscribe) *wire.Error {
	if err := s.checkSubscribe(c, req); err != nil {
		return err
	}
	all := c.subs.patterns
	for _, p := range req.Topics {
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	before := topic.Canonical(c.subs.patterns)
	after := topic.Canonical(all)
	h := s.hub
	came := s.reached(c, req)

	h.mu.Lock()
	floor := h.floor(req)
	setBack := floor > h.seq
	if setBack && h.older(came) {
		h.mu.Unlock()
		return &wire.Error{Code: wire.CodeUnavailable, Retryable: true, Message: "this gateway has not read the stream as far as you have seen it; try again later, or at another one"}
	}
	if setBack {
		floor = 0
	}
	answer := wire.Subscribed{Topics: req.Topics, Epoch: h.epoch, Seq: h.seq}
	old := c.feed.Load()
	if old != nil && slices.Equal(before, after) { // nothing new
		c.holds(all)
		h.mu.Unlock()
		c.say(&wire.ServerFrame{ID: id, Subscribed: &answer})
		return nil
	}
	if n := h.unknown(req.Topics); n > 0 && h.waited()+n > h.maxTopics {
		h.mu.Unlock()
		return &wire.Error{Code: wire.CodeUnavailable, Retryable: true, Message: "as many topics that have no value are waited for as this gateway can hold; try again later"}
	}
	f := h.join(after, c.format, req.MaxHz, h.now())
	h.settle(f, h.now())
	var begin opening
	if req.Since != nil {
		if answer.Reason = wire.NotResumedEpoch; !setBack {
			begin, answer.Reason = s.replay(f, before, req.Since, old == nil, floor)
		}
		answer.Resumed = answer.Reason == ""
		s.metrics.resumes.WithLabelValues(cmp.Or(answer.Reason, "complete")).Inc()
	}
	if !answer.Resumed {
		h.settle(f, h.now()) // what came while the stream was read back
		begin = h.snapshot(f, before, old == nil, floor)
	}
	answer.Seq = begin.seq
	done := s.budget.pass(begin.cost())
	if done == nil {
		h.leave(f)
		h.mu.Unlock()
		return &wire.Error{Code: wire.CodeUnavailable, Retryable: true, Message: errShort.Error() + "; try again later"}
	}
	defer done()
	c.holds(all)
	c.subs.maxHz = req.MaxHz
	c.latest.Store(isLatest(req))
	if old != nil {
		h.settle(old, h.now())
		c.enter(step{until: old.end.Load(), seq: h.seq})
		h.leave(old)
	}
	c.entered.Store(begin.pos)
	c.enteredOwn.Store(begin.cur.owned())
	c.feed.Store(f)
	h.mu.Unlock()

	steps := []step{{data: encode(c.format.plain(), &wire.ServerFrame{ID: id, Subscribed: &answer})}}
	if data := begin.frames(c.format); len(data) > 0 {
		steps = append(steps, step{data: data})
	}
	c.enter(append(steps, step{feed: f, cur: begin.cur, pos: begin.pos})...)
	c.writer.push(job{conn: c, what: jobMove})
	return nil
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
		c.entered.Store(pos)
		c.enteredOwn.Store(cur.owned())
	}
	c.feed.Store(f)
	c.enter(steps...)
	h.mu.Unlock()
	c.writer.push(job{conn: c, what: jobMove})
	return nil
}
