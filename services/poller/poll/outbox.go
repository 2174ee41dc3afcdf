package poll

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/lease"
	"github.com/pollcast/pollcast/services/poller/record"
)

// Stream is where records go, and where what was published is read back.
type Stream interface {
	Put(context.Context, record.Job) (record.State, error)
	// Enter waits for a place among the publishes that are under way; in is false if ctx
	// ended before there was one. Each is given back by Leave.
	Enter(ctx context.Context) (waited, in bool)
	Leave()
	// MaxPayload is the longest value that NATS takes, in bytes; 0: not known. size is
	// that of the value in question.
	MaxPayload(size int) int64
	ReadBack(ctx context.Context, topic string, messages uint64, each func(*event.Event)) error
}

// outbox is what the stream holds of a poll, and what is being published.
type outbox struct {
	state record.State
	// storedAsOf is when the value was last confirmed, as far as the stream says; zero: it
	// says nothing.
	storedAsOf time.Time
	savedAt    time.Time // when the last freshness record was stored
	// restoredAt is when values were last stored again that the stream had dropped.
	restoredAt time.Time
	// lastAsOf is the asOf of the record that was made because the poll stops.
	lastAsOf time.Time
	renew    bool // the freshness record is to be renewed
	putting  bool // a publish is under way
	retry    record.Backoff
}

// restorePause is the least time between two times that values of a poll are stored
// again: a stream that cannot hold all values is not written round and round.
const restorePause = 10 * time.Minute

// resume begins a tenure with what the stream holds.
func (o *outbox) resume(r record.Recovered, now time.Time) {
	o.state = record.State{}
	o.state.Learn(r)
	o.state.Recovered = nil
	o.storedAsOf, o.savedAt = r.Confirmed(now), time.Time{}
	o.renew, o.putting, o.retry = false, false, record.Backoff{}
}

// renewalDue says that the record is to be renewed: every max(interval, maxAge/3),
// counted in ticks, which are not quite an interval apart.
func (o *outbox) renewalDue(interval, maxAge time.Duration, now time.Time) bool {
	return now.Sub(o.savedAt) >= max(interval, maxAge/3)-interval/2
}

// sayLast makes a poll that stops publish when its value was last confirmed, if the
// stream does not know; once, as a stop must come to an end.
func (o *outbox) sayLast(t *trust, now time.Time) {
	f := o.state.Fresh
	if f == nil || !t.known || t.stale || o.lastAsOf.Equal(t.asOf) {
		return
	}
	if o.lastAsOf = t.asOf; clock.WallTime(t.asOf, now).After(f.AsOf) {
		o.renew = true
	}
}

// freshness is the poll's freshness record now.
func (s *state) freshness(now time.Time) event.Freshness {
	state, probeAt, _ := s.Upstreams.State()
	t := &s.trust
	f := event.Freshness{
		Poll: s.Topic, AsOf: clock.WallTime(t.asOf, now), CheckedAt: clock.Stamp(now),
		Stale: t.stale, Reason: t.reason, Detail: t.detail,
		Breaker: state, ConsecutiveFailures: t.failures,
		IntervalMs: s.Config.Interval.Milliseconds(), MaxAgeMs: s.Config.MaxAge.Milliseconds(),
	}
	if state == event.Open {
		f.NextProbeAt = clock.Stamp(probeAt)
	}
	// The time is part of the message id: two records of one millisecond would be one.
	last := s.outbox.state.Fresh
	if last != nil && !f.CheckedAt.After(last.CheckedAt) && f.CheckedAt.Add(time.Second).After(last.CheckedAt) {
		f.CheckedAt = last.CheckedAt.Add(time.Millisecond)
	}
	return f
}

// sameState says that a stored record still says all there is to say.
func sameState(f, old *event.Freshness, fence uint64) bool {
	return old != nil && old.Fence == fence &&
		f.Stale == old.Stale && f.Reason == old.Reason && f.Detail == old.Detail &&
		f.Breaker == old.Breaker && f.ConsecutiveFailures == old.ConsecutiveFailures &&
		f.NextProbeAt.Equal(old.NextProbeAt) &&
		f.IntervalMs == old.IntervalMs && f.MaxAgeMs == old.MaxAgeMs
}

// nextJob begins what there is to publish, if anything: the newest values and the
// newest freshness. What came in between while NATS was away is not published.
func (s *state) nextJob(now time.Time, t *lease.Tenure) *record.Job {
	o := &s.outbox
	if o.putting || !s.trust.known || o.retry.Wait(now) < record.Never {
		return nil
	}
	j := record.Job{Topic: s.Topic, Ignore: s.Ignore, Known: o.state, Tenure: t, AsOf: s.trust.asOf}
	f := s.freshness(now)
	if o.renew || !sameState(&f, o.state.Fresh, t.Fence) || s.Upstreams.StreakEnded(o.state.Circuits) {
		// Most of the time there is nothing to publish, and nothing to allocate.
		j.Fresh, j.Circuits = new(f), s.Upstreams.Memos()
	}
	s.kind.add(&j, now)
	if j.Fresh == nil && j.Fence == nil && len(j.Changes) == 0 && len(j.Steps) == 0 {
		return nil
	}
	o.putting, o.renew = true, o.renew && j.Fresh == nil
	s.topics.begin(j.Changes)
	return new(j)
}

// addFence adds to a job the record that makes the stream refuse what is on its way. It is
// the freshness record of the job, if that speaks of a value which the stream holds.
// Otherwise it is a record that says of the value what was published last.
func (s *state) addFence(j *record.Job, now time.Time) {
	if j.Fresh == nil && len(j.Changes) == 0 && j.Known.Fresh == nil {
		return // there is nothing to publish yet
	}
	j.Keys = s.Shape.Keyed() || len(s.topics.byToken) > 1
	if len(j.Changes) == 0 && !s.trust.confirmedHere && j.Fresh != nil {
		j.Fence = j.Fresh
		return
	}
	f, o := s.freshness(now), &s.outbox
	f.AsOf = clock.WallTime(o.storedAsOf, now)
	if !f.Stale && now.Sub(o.storedAsOf) > s.Config.MaxAge {
		f.Stale, f.Reason = true, event.PollerSilent
	}
	o.renew = true
	j.Fence, j.Circuits = &f, s.Upstreams.Memos()
}

// remake makes a job that has waited again. It returns nil when there is nothing to
// publish any more.
func (p *Poll) remake(j *record.Job, t *lease.Tenure) *record.Job {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.cancel(j)
	return p.state.nextJob(clock.Now(), t)
}

// cancel ends a job that was not done.
func (s *state) cancel(j *record.Job) {
	s.outbox.putting = false
	s.outbox.renew = s.outbox.renew || j.Fresh != nil
	s.topics.cancel(j.Changes)
}

// settle learns how a publish went.
func (s *state) settle(j *record.Job, st record.State, err error) {
	now, o := clock.Now(), &s.outbox
	r := st.Recovered
	o.state, o.state.Recovered = st, nil
	if r != nil && r.FreshSeq == 0 && j.Known.Guard != 0 {
		s.host.StreamAnew()
	}
	// If it is stored all the same, it is not the last word.
	o.renew = o.renew || err != nil && j.Fresh != nil
	s.topics.settle(j.Changes, now)
	s.kind.settle(r, now)
	switch {
	case err == nil:
		o.retry = record.Backoff{}
		if j.Fresh != nil {
			o.savedAt = now
		}
		own := func(c *record.Change) bool { return c.Token == record.OwnTopic }
		if j.Fresh != nil || slices.ContainsFunc(j.Changes, own) {
			o.storedAsOf = j.AsOf
		}
	case errors.Is(err, record.ErrAgain):
		o.retry.Repeat(now)
	case errors.Is(err, lease.ErrFenced), errors.Is(err, lease.ErrExpired):
		s.host.Lose(err)
	case errors.Is(err, context.Canceled): // the tenure is over
	case errors.Is(err, nats.ErrMaxPayload):
		s.dropTooLong(err, now)
	default:
		o.retry.Fail(now)
		s.host.Complain(err)
	}
}

// dropTooLong drops the values that NATS does not take any more: its max_payload was
// lowered after they were read. They would be sent again and again, and no freshness
// record before them. The poll starts again with what the stream holds.
func (s *state) dropTooLong(err error, now time.Time) {
	s.topics.dropTooLong(func(value []byte) bool {
		most := s.host.Stream().MaxPayload(len(value))
		return most == 0 || int64(len(value)) <= most
	})
	o := &s.outbox
	if own := s.topics.byToken[record.OwnTopic]; own != nil && own.good.Value == nil {
		s.trust.asOf, s.trust.confirmedHere = o.storedAsOf, false
	}
	o.state.Sync, o.renew = min(o.state.Sync, record.Fenced), true
	s.judge(stale(event.BadResponse, fmt.Sprintf("NATS does not take the value: %v", err)), now)
	o.retry.Fail(now)
	s.host.Complain(err)
}

// StoreAgain makes the poll publish again what the stream has dropped before the
// sequence number first, and returns how many values that are. A stream with a bound
// (nats.maxBytes) drops its oldest messages, which are the values that have not changed
// for longest. Their pollers know them.
func (p *Poll) StoreAgain(first uint64, now time.Time) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	// A publish that is under way brings its own idea of what is stored.
	if p.state.outbox.putting || now.Sub(p.state.outbox.restoredAt) < restorePause {
		return 0
	}
	n := p.state.topics.drop(first)
	if n > 0 {
		p.state.outbox.restoredAt = now
		p.Wake()
	}
	return n
}
