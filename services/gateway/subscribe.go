package gateway

import (
	"fmt"
	"slices"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/topic"
	"github.com/pollcast/pollcast/pkg/wire"
)

// snapshotShare is how long joiners of a feed are given the same snapshot: a
// storm of reconnecting clients makes one per feed and period, not one each.
const snapshotShare = 100 * time.Millisecond

// subscriptions are the patterns of one connection, in the order they came.
type subscriptions struct {
	patterns []string
}

// A snapshot is the last values of a feed, as frames, and the place in the
// feed where the live frames after it begin.
type snapshot struct {
	data []byte
	seq  uint64
	cur  cursor
	pos  uint64
	made time.Time
}

// subscribe adds patterns to a connection. The answer, the snapshot of what is
// new and the live frames after it come without gap or repetition: all three
// are taken at one position of the stream. Reader's.
func (s *server) subscribe(c *conn, id uint64, req *wire.Subscribe) *wire.Error {
	if err := s.checkSubscribe(c, req); err != nil {
		return err
	}
	all := c.subs.patterns
	var added []string
	for _, p := range req.Topics {
		if !slices.Contains(all, p) {
			all, added = append(all, p), append(added, p)
		}
	}
	before := topic.Canonical(c.subs.patterns)
	after := topic.Canonical(all)

	h := s.hub
	h.mu.Lock()
	now := h.now()
	answer := wire.Subscribed{Topics: req.Topics, Epoch: h.epoch}
	if req.Since != nil {
		answer.Reason = wire.NotResumedTooFar
		if req.Since.Epoch != h.epoch {
			answer.Reason = wire.NotResumedEpoch
		}
	}
	old := c.feed.Load()
	if old != nil && slices.Equal(before, after) {
		answer.Seq = h.seq
		h.mu.Unlock()
		c.subs.patterns = all
		c.send(textFrame(&wire.ServerFrame{ID: id, Subscribed: &answer}))
		return nil
	}
	f := h.join(after, now)
	var snap *snapshot
	var collect collected
	if old == nil {
		snap = f.snap
		if snap == nil || now.Sub(snap.made) > snapshotShare {
			snap = nil
		}
	}
	if snap == nil {
		cur, pos := f.tip()
		snap = &snapshot{seq: h.seq, cur: cur, pos: pos, made: now}
		collect = h.collect(f, before)
		if old == nil {
			// Encoding under the mutex is what lets others share it.
			snap.data = collect.encode(now)
			f.snap = snap
		}
	}
	var steps []step
	if old != nil {
		steps = append(steps, step{until: old.end.Load()})
		h.leave(old)
	}
	c.entered.Store(snap.pos)
	c.feed.Store(f)
	h.mu.Unlock()

	data := snap.data
	if old != nil {
		data = collect.encode(now) // this connection's alone
	}
	answer.Seq = snap.seq
	steps = append(steps, step{data: textFrame(&wire.ServerFrame{ID: id, Subscribed: &answer})})
	if len(data) > 0 {
		steps = append(steps, step{data: data})
	}
	steps = append(steps, step{feed: f, cur: snap.cur, pos: snap.pos})
	c.enter(steps)
	c.subs.patterns = all
	c.writer.push(job{conn: c, what: jobMove})
	return nil
}

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
	case "", wire.DeliverAll:
	default:
		return fail(wire.CodeInvalid, "delivery %q: this gateway knows %q", req.Delivery, wire.DeliverAll)
	}
	if req.MaxHz != 0 {
		return fail(wire.CodeInvalid, "maxHz %v: this gateway has no rate limit per topic; leave it out", req.MaxHz)
	}
	if req.Replay != "" && req.Replay != "latest" {
		return fail(wire.CodeInvalid, `replay %q: this gateway knows "latest"`, req.Replay)
	}
	return nil
}

// unsubscribe takes patterns away. No frame of theirs follows the answer.
// Reader's.
func (s *server) unsubscribe(c *conn, id uint64, req *wire.Unsubscribe) *wire.Error {
	all := slices.DeleteFunc(slices.Clone(c.subs.patterns), func(p string) bool { return slices.Contains(req.Topics, p) })
	answer := textFrame(&wire.ServerFrame{ID: id, Unsubscribed: &wire.Unsubscribed{Topics: req.Topics}})
	before, after := topic.Canonical(c.subs.patterns), topic.Canonical(all)
	c.subs.patterns = all
	old := c.feed.Load()
	if old == nil || slices.Equal(before, after) {
		c.send(answer)
		return nil
	}
	h := s.hub
	h.mu.Lock()
	steps := []step{{until: old.end.Load()}, {data: answer}}
	h.leave(old)
	var f *feed
	if len(after) > 0 {
		f = h.join(after, h.now())
		cur, pos := f.tip()
		steps = append(steps, step{feed: f, cur: cur, pos: pos})
		c.entered.Store(pos)
	}
	c.feed.Store(f)
	h.mu.Unlock()
	c.enter(steps)
	c.writer.push(job{conn: c, what: jobMove})
	return nil
}

// collected is what a snapshot shows, taken under the hub's mutex: events are
// never written to after they were published, freshness is copied.
type collected struct {
	fresh  []event.Freshness
	events []collectedEvent
}

type collectedEvent struct {
	e     *event.Event
	seq   uint64
	fresh event.Freshness
}

// collect takes what the feed's patterns match and those before did not. The
// caller holds the mutex.
func (h *hub) collect(f *feed, before []string) collected {
	now := h.now()
	var out collected
	fresh := make(map[*pollState]event.Freshness, len(f.polls))
	for p := range f.polls {
		fr := p.fresh(now, h.busDown)
		fresh[p] = fr
		if p.record != nil && !coversPoll(before, p.name) {
			out.fresh = append(out.fresh, fr)
		}
	}
	for t := range f.topics {
		if t.last == nil || matchAny(before, t.name) {
			continue
		}
		fr, ok := fresh[t.poll]
		if !ok {
			fr = t.poll.fresh(now, h.busDown)
		}
		out.events = append(out.events, collectedEvent{t.last, t.seq, t.poll.trust(t.last, t.seq, fr)})
	}
	return out
}

// encode makes the snapshot's frames: freshness first, then the values in the
// stream's order.
func (c collected) encode(now time.Time) []byte {
	slices.SortFunc(c.fresh, func(a, b event.Freshness) int {
		if a.Poll < b.Poll {
			return -1
		}
		return 1
	})
	slices.SortFunc(c.events, func(a, b collectedEvent) int {
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	var out []byte
	for i := range c.fresh {
		out = appendText(out, &wire.ServerFrame{Fresh: &c.fresh[i]})
	}
	for _, e := range c.events {
		frame := eventFrame(e.e, e.seq, wire.Snapshot, e.fresh, now)
		out = appendText(out, &frame)
	}
	return out
}
