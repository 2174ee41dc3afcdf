package gateway

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/pollcast/pollcast/pkg/topic"
	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/conn"
	"github.com/pollcast/pollcast/services/gateway/frame"
	"github.com/pollcast/pollcast/services/gateway/hub"
)

// A subscribing is a subscribe frame on its way into a feed.
type subscribing struct {
	req           *wire.Subscribe
	patterns      []string  // the connection's, with those of the frame
	before, after []string  // the connection's patterns before and after it, canonical
	came          time.Time // since when its client has been waiting for what it has seen
	seenSeq       uint64    // what its client has seen of this stream

	joined *hub.Feed // a reference is held; nil at first
	filled *hub.Gap  // what was read back for it; nil: nothing
	answer wire.Subscribed
	begin  hub.Opening // what goes out after the answer; without a place: nothing
	done   func()      // gives back the memory of begin's frames
}

// subscribe adds patterns to a connection. The answer, the snapshot (or the
// replay) of what is new and the live frames after it come without gap or
// repetition: all three are taken at one position of the stream. If a replay
// needs what the history does not hold, that is read back without the hub's
// mutex, and entering is tried again at the position of then. The reader calls it.
func (s *server) subscribe(c *session, id uint64, req *wire.Subscribe) *wire.Error {
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
	e.came = awaitSeen(s.hub, c, req)
	for release := func() {}; ; {
		var missing *hub.Gap
		var err *wire.Error
		s.hub.With(func(v *hub.View) { missing, err = s.enterFeed(v, c, e) })
		release()
		if err != nil {
			return err
		}
		if missing == nil {
			break
		}
		e.filled = missing
		release = s.readbacks.fill(missing)
	}
	defer e.done()
	answer := frame.Encode(c.Format.Plain(), &wire.ServerFrame{ID: id, Subscribed: &e.answer})
	if e.joined == nil { // nothing new
		c.Send(answer)
		return nil
	}
	steps := []conn.Step{{Data: answer}}
	if data := e.begin.Frames(c.Format); len(data) > 0 {
		steps = append(steps, conn.Step{Data: data})
	}
	c.Queue(append(steps, conn.Step{Feed: e.joined, Cur: e.begin.Cur, Pos: e.begin.Pos})...)
	c.Move()
	return nil
}

// enterFeed puts a connection into the feed of its patterns, at the hub's
// position. If that needs what the history does not hold, it returns what is
// missing; the caller calls it again when that is filled.
func (s *server) enterFeed(v *hub.View, c *session, e *subscribing) (missing *hub.Gap, werr *wire.Error) {
	refuse := func(message string) (*hub.Gap, *wire.Error) {
		if e.joined != nil {
			v.Leave(e.joined)
		}
		return nil, &wire.Error{Code: wire.CodeUnavailable, Retryable: true, Message: message}
	}
	e.seenSeq = v.SeenSeq(e.req)
	setBack := e.seenSeq > v.Seq()
	if setBack && v.MaybeOlder(e.came) {
		return refuse("this gateway has not read the stream as far as you have seen it; try again later, or at another one")
	}
	e.answer = wire.Subscribed{Topics: e.req.Topics, Epoch: v.Epoch(), Seq: v.Seq()}
	old := c.Feed()
	if old != nil && slices.Equal(e.before, e.after) {
		c.holds(e.patterns)
		return nil, nil
	}
	if e.joined == nil {
		if !v.CanWaitFor(e.req.Topics) {
			return refuse("as many topics that have no value are waited for as this gateway can hold; try again later")
		}
		e.joined = v.Join(e.after, c.Format, e.req.MaxHz)
	}
	if missing = s.open(v, e, old == nil, setBack); missing != nil {
		return missing, nil
	}
	if e.done = s.budget.Pass(e.begin.Cost()); e.done == nil {
		return refuse(errShort.Error() + "; try again later")
	}
	c.holds(e.patterns)
	c.subs.maxHz = e.req.MaxHz
	c.SetLatest(isLatest(e.req))
	if old != nil {
		v.Settle(old)
		c.Queue(conn.Step{Until: old.End(), Seq: v.Seq()})
		v.Leave(old)
	}
	c.GoTo(v, e.joined, e.begin.Cur, e.begin.Pos)
	return nil, nil
}

// open chooses what a subscription begins with: a replay if it can resume, or a
// snapshot. With share, those who come together get the same bytes. setBack
// reports that the stream does not reach what the client has seen.
func (s *server) open(v *hub.View, e *subscribing, share, setBack bool) (missing *hub.Gap) {
	if setBack {
		e.seenSeq = 0
	}
	v.Settle(e.joined)
	if e.req.Since != nil {
		r := hub.Replayed{Reason: wire.NotResumedEpoch}
		if !setBack {
			e.begin, r = v.Replay(e.joined, e.before, e.req.Since, share, e.seenSeq, e.filled)
		}
		if r.Missing != nil {
			return r.Missing
		}
		if r.CutShort {
			s.readbacks.logUnread(errCutShort)
		}
		e.answer.Reason, e.answer.Resumed = r.Reason, r.Reason == ""
		s.metrics.resumes.WithLabelValues(cmp.Or(r.Reason, "complete")).Inc()
	}
	if !e.answer.Resumed {
		e.begin = v.Snapshot(e.joined, e.before, share, e.seenSeq)
	}
	e.answer.Seq = e.begin.Seq
	return nil
}

// isLatest reports whether a subscription may skip events.
func isLatest(req *wire.Subscribe) bool { return req.Delivery == wire.DeliverLatest || req.MaxHz > 0 }

func (s *server) checkSubscribe(c *session, req *wire.Subscribe) *wire.Error {
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
	case hz != 0 && (hz < hub.MinHz || hz > hub.MaxHz): // also NaN
		return fail(wire.CodeInvalid, "maxHz %v: use %v to %v, or 0 for no limit", hz, hub.MinHz, hub.MaxHz)
	case hz != 0 && req.Delivery == wire.DeliverAll:
		return fail(wire.CodeInvalid, `maxHz %v skips events: use it with delivery "latest"`, hz)
	case len(c.subs.patterns) > 0 && (hz != c.subs.maxHz || isLatest(req) != c.Latest()):
		return fail(wire.CodeInvalid,
			"all subscriptions of a connection have the same delivery and maxHz; open another connection for others")
	}
	if req.Replay != "" && req.Replay != "latest" {
		return fail(wire.CodeInvalid, `replay %q: this gateway knows "latest"`, req.Replay)
	}
	return nil
}

// holds sets the connection's subscriptions. Reader's.
func (c *session) holds(patterns []string) {
	size := func(list []string) (n int64) {
		for _, p := range list {
			n += int64(len(p)) + 32
		}
		return n
	}
	c.Charge(size(patterns) - size(c.subs.patterns))
	c.subs.patterns = patterns
}

// unsubscribe takes patterns away. No frame of theirs follows the answer.
// Reader's.
func (s *server) unsubscribe(c *session, id uint64, req *wire.Unsubscribe) *wire.Error {
	all := slices.DeleteFunc(slices.Clone(c.subs.patterns), func(p string) bool { return slices.Contains(req.Topics, p) })
	answer := frame.Encode(c.Format.Plain(), &wire.ServerFrame{
		ID: id, Unsubscribed: &wire.Unsubscribed{Topics: req.Topics},
	})
	before, after := topic.Canonical(c.subs.patterns), topic.Canonical(all)
	c.holds(all)
	old := c.Feed()
	if old == nil || slices.Equal(before, after) {
		c.Send(answer)
		return nil
	}
	s.hub.With(func(v *hub.View) {
		v.Settle(old)
		steps := []conn.Step{{Until: old.End(), Seq: v.Seq()}, {Data: answer}}
		v.Leave(old)
		if len(after) > 0 {
			f := v.Join(after, c.Format, c.subs.maxHz)
			cur, pos := v.Tip(f)
			steps = append(steps, conn.Step{Feed: f, Cur: cur, Pos: pos})
			c.GoTo(v, f, cur, pos)
		} else {
			c.GoTo(v, nil, hub.Cursor{}, 0)
		}
		c.Queue(steps...)
	})
	c.Move()
	return nil
}
