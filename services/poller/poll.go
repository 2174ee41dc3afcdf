package poller

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
)

// poll is one call, repeated. It is no goroutine: whoever brings news, a timer, an
// answer, an acknowledgement, takes mu and lets the poll advance. mu is never
// held while somebody waits: at most one call and one publish are on their way,
// and are made without it.
type poll struct {
	*asker
	host     host
	follow   *follower // nil: it walks no sequence
	always   bool      // every reading is an event
	schedule schedule
	counts   *counts
	same     bool                 // as before a reload, in a source that changed otherwise
	life     atomic.Pointer[life] // the last; nil before the first
	woken    atomic.Bool          // a breaker changed, or NATS came back

	mu    sync.Mutex // guards all that follows
	begun bool       // there was a tenure

	// What is known of the upstream's side.
	good       lastGood          // of a poll with keys, asOf only
	keys       map[string]*keyed // by the last token of their topics
	advanced   advancing
	known      bool // there is something to say
	stale      bool
	staleSince time.Time
	reason     event.Reason
	detail     string
	whole      wholeDetail
	failures   int // polls in a row that failed
	checkedAt  time.Time
	last       attempt
	attempts   *attempts
	lines      *lines // of the log

	// What the stream knows of it, and what is being said.
	stored stored
	left   time.Time // what the stream says of asOf, or less; zero: nothing
	saidAt time.Time // when the last freshness record was stored
	// againAt is when values were last stored again that the stream had dropped.
	againAt time.Time
	// lastSaid is the asOf of the record that was made before a stop.
	lastSaid time.Time
	renew    bool // a renewal is due
	putting  bool
	retry    backoff

	// When to ask.
	calling bool
	starved bool      // the process stood still during the last tick's call, which counted as none
	slot    time.Time // of the next aligned tick, by the wall clock
	tickAt  time.Time // when that is, by the monotonic clock
	extraAt time.Time // an unaligned tick: the first, or after a recovery; may be zero
	probeAt time.Time // a tick for the next probe only; may be zero
	triedAt time.Time // when that was last
	skipped uint64
}

// host is what a poll needs of the source that it is part of.
type host interface {
	stream() stream
	// lose ends the tenure at once.
	lose(error)
	// complain says that the stream does not take records.
	complain(error)
	// wakePolls has all polls of the source look around.
	wakePolls()
	// streamAnew says that the stream holds nothing any more of what it held.
	streamAnew()
}

// stream is where records go, and what was published is read back.
type stream interface {
	put(context.Context, job) (stored, error)
	// enter waits for a place among the publishes that are under way; in is false
	// if ctx ended before there was one. Each is given back by leave.
	enter(ctx context.Context) (waited, in bool)
	leave()
	// maxPayload is the longest value that NATS takes, in bytes; 0: not known.
	maxPayload() int64
	past(ctx context.Context, topic string, messages uint64, each func(*event.Event)) error
}

// attempt is the last tick, for the status.
type attempt struct {
	outcome string
	at      time.Time
	took    time.Duration
}

// putDone is the outcome of one publish.
type putDone struct {
	job    job
	stored stored
	err    error
}

// resume takes up the poll under a new tenure: from memory, or from what the
// last owner left in the stream, whichever is later.
func (p *poll) resume(r remains) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := clock()
	r = p.sort(r)
	p.stored.learn(r, p.ignore)
	p.stored.found, p.stored.shut, p.stored.alone = nil, false, false
	p.good.own, p.left = false, r.confirmed(now)
	if p.follow != nil {
		p.follow.resume(r, now)
		p.good.asOf = later(p.good.asOf, anchor(r.asOf(), now))
	} else {
		p.good.restore(r, p.stored.digest, now)
		p.stored.recognise(&p.good, r.event, now)
	}
	p.resumeKeys(r)
	if f := r.fresh; (p.shape.keyed() || p.follow != nil) && f != nil && f.AsOf.After(p.good.asOf) {
		p.good.asOf = anchor(f.AsOf, now)
	}
	if f := r.fresh; f != nil && f.CheckedAt.After(p.checkedAt) {
		p.known, p.checkedAt = true, f.CheckedAt
		p.stale, p.reason, p.detail, p.failures = f.Stale, f.Reason, f.Detail, f.ConsecutiveFailures
		p.staleSince = f.CheckedAt
	} else if f == nil && !p.known && !p.good.asOf.IsZero() {
		p.known = true
		p.stale, p.reason, p.staleSince = true, event.PollerSilent, p.good.asOf
	}
	if p.follow != nil && !p.known { // for the record that shuts others out
		p.known, p.stale, p.reason, p.staleSince = true, true, event.PollerSilent, now
	}
	if breaker, _, _ := p.upstreams.breaker(); p.stale && p.reason == event.BreakerOpen && breaker == event.Closed {
		p.reason = event.UpstreamError // the circuit's memory is gone, as with a new URL
	}
	// Readers take the value for stale since maxAge has passed without a record:
	// the first record must not say otherwise before the upstream does.
	// Where the clock was set back nobody knows how long that is.
	if silence := now.Sub(p.checkedAt); p.known && !p.stale && silence.Abs() > p.config.MaxAge {
		p.stale, p.reason, p.staleSince = true, event.PollerSilent, p.checkedAt
		p.detail = "no poller asked for " + silence.Round(time.Second).String()
		if silence < 0 {
			p.staleSince, p.detail = now, "the clock was set back while no poller asked"
		}
		p.log.Warn("value is stale", "reason", p.reason, "detail", p.detail, "age", age(now, p.good.asOf))
	}
	p.putting, p.calling, p.renew = false, false, false
	p.retry, p.saidAt = backoff{}, time.Time{}
	p.aim(now)
	p.extraAt = now.Add(p.schedule.start())
	if p.same { // its slots go on
		p.same, p.extraAt = false, time.Time{}
	}
}

// sort puts what the stream holds of the poll's own topic where it belongs: a
// poll with keys has no value there, and deletes what an earlier configuration
// left.
func (p *poll) sort(r remains) remains {
	if p.shape.keyed() && r.event != nil {
		keys := map[string]*event.Event{own: r.event}
		maps.Copy(keys, r.keys)
		r.event, r.keys = nil, keys
	}
	return r
}

// aim chooses the next aligned slot.
func (p *poll) aim(now time.Time) {
	p.slot = p.schedule.after(p.slot, now)
	p.tickAt = now.Add(p.slot.Sub(now) + p.schedule.delay(p.slot))
}

// due is when the next tick of any kind is.
func (p *poll) due() time.Time {
	due := p.tickAt
	for _, at := range []time.Time{p.extraAt, p.probeAt} {
		if !at.IsZero() && at.Before(due) {
			due = at
		}
	}
	return due
}

// tickKind is what a tick is for.
type tickKind int

const (
	noTick      tickKind = iota
	alignedTick          // the poll's own slot
	extraTick            // unaligned: the first poll, or after a recovery
	probeTick            // to probe an upstream whose circuit is open, nothing else
)

// tick says what is due now, if anything, and its slot. A tick while a call is
// under way, or that comes whole intervals late, is skipped and counted.
func (p *poll) tick(now time.Time) (tickKind, time.Time) {
	// Not aligned, so that its event is not taken for that of another replica's
	// tick.
	kind, slot := noTick, stamp(now)
	switch {
	case !now.Before(p.tickAt):
		kind, slot = alignedTick, p.slot
		missed := uint64(now.Sub(p.tickAt) / p.config.Interval)
		if p.calling {
			missed++
		}
		p.skip(missed)
		p.aim(now)
		p.extraAt = time.Time{}
	case !p.extraAt.IsZero() && !now.Before(p.extraAt):
		p.extraAt = time.Time{}
		if p.tickAt.Sub(now) >= nearTick(p.config.Interval) { // otherwise that one will do
			kind = extraTick
		}
	case !p.probeAt.IsZero() && !now.Before(p.probeAt):
		kind, p.probeAt, p.triedAt = probeTick, time.Time{}, now
	}
	if p.calling {
		kind = noTick
	}
	return kind, slot
}

// nearTick is the time before a poll's own tick in which no other is worth
// making.
func nearTick(interval time.Duration) time.Duration { return min(interval/10, maxStart) }

func (p *poll) skip(n uint64) {
	p.skipped += n
	p.counts.skipped.Add(n)
}

// take learns from a reading. A tick for a probe that failed while another
// upstream's circuit is closed says nothing about the value.
func (p *poll) take(r reading, w walked, k tickKind) {
	if r.tellCircuits() { // the records of other polls may tell of it
		p.host.wakePolls()
	}
	now := clock()
	if p.starved = r.starved && r.abandoned; p.starved && k != probeTick {
		p.extraAt = now.Add(p.schedule.start())
	}
	if r.abandoned {
		return
	}
	p.renew = p.renew || r.failure == nil && r.failedOver() // for the next owner
	outcome, still := outcomeOK, false
	switch {
	case r.failure != nil:
		outcome = string(r.failure.Reason)
	case p.follow != nil && p.config.MustAdvance.Within > 0:
		if still = p.advanced.see(int(r.head), r.sent, p.config.MustAdvance.Within); still {
			outcome = string(event.NotAdvancing)
		}
	case p.shape.advance != nil:
		p.advanced.seed(r.seed, anchor(p.good.changedAt, now))
		if still = p.advanced.see(r.mark, r.sent, p.config.MustAdvance.Within); still {
			outcome = string(event.NotAdvancing)
		}
	}
	p.count(outcome, now, r.took, r.up)
	p.counts.duration(r.took)
	if p.follow != nil {
		p.follow.still = still
		p.takeWalk(r, w, now)
	}
	breaker, _, _ := p.upstreams.breaker()
	switch f := r.failure; {
	case f != nil && k == probeTick && f.Counts && breaker == event.Closed:
		return
	case f != nil:
		p.failures++
		p.whole = wholeDetail{f.Detail, f.Whole}
		p.markStale(f.Reason, f.Detail, now)
		return
	}
	switch {
	case p.follow != nil: // reflectWalk
	case p.shape.keyed():
		p.good.asOf, p.good.own = r.sent, true
	default:
		p.good.take(r.value, r.digest, r.sent, r.slot, r.up.name, p.always)
	}
	p.takeKeys(r, now)
	p.failures = 0
	switch {
	case breaker != event.Closed: // the call began before the circuit opened
		p.markStale(event.BreakerOpen, p.whyOpen(), now)
	case p.follow != nil:
		p.reflectWalk(now)
	case still:
		p.markStale(event.NotAdvancing, p.standsStill(), now)
	default:
		p.markFresh(now)
	}
}

func (p *poll) standsStill() string {
	return "answers, but has not advanced for more than " + p.config.MustAdvance.Within.String() + " (mustAdvance)"
}

// refused is a tick in which no upstream could be asked.
func (p *poll) refused(k tickKind, err error, now time.Time) {
	switch {
	case k == probeTick: // another poll was first
	case errors.Is(err, errQuota):
		// The value is as good as its age. Readers would take it for stale by
		// silence; the poller says it itself.
		p.skip(1)
		if now.Sub(p.good.asOf) > p.config.MaxAge {
			p.markStale(event.PollerSilent, "not asked: "+err.Error(), now)
		}
	case errors.Is(err, errWait):
		p.skip(1)
		p.checkedAt, p.renew = stamp(now), p.renew || p.renewalDue(now)
		p.markStale(event.UpstreamError, "upstream asked to wait (Retry-After)", now)
	default:
		p.count(string(event.BreakerOpen), now, 0, nil)
		p.markStale(event.BreakerOpen, p.whyOpen(), now)
	}
}

// whyOpen is the poll's own last failure, or what opened the circuit.
func (p *poll) whyOpen() string {
	if p.stale && p.detail != "" {
		return p.detail
	}
	_, _, cause := p.upstreams.breaker()
	return cause
}

// count keeps a tick's outcome; up is nil if no upstream was asked.
func (p *poll) count(outcome string, now time.Time, took time.Duration, up *upstream) {
	p.attempts.add(outcome, now.Add(-took), took, slices.Index(p.upstreams.list, up))
	p.counts.outcome(outcome)
	p.last = attempt{outcome, now, took}
	p.checkedAt, p.renew = stamp(now), p.renew || p.renewalDue(now)
}

// renewalDue: every max(interval, maxAge/3), counted in ticks, which are not
// quite an interval apart.
func (p *poll) renewalDue(now time.Time) bool {
	every := max(p.config.Interval, p.config.MaxAge/3)
	return now.Sub(p.saidAt) >= every-p.config.Interval/2
}

func age(now, then time.Time) time.Duration { return now.Sub(then).Round(time.Millisecond) }

// spare leaves the first poll of a tenure out if the last owner, who gave the
// lease back, has polled in this slot. Otherwise it is due now.
func (p *poll) spare(now time.Time) {
	f := p.stored.fresh
	if f == nil {
		return
	}
	asked := p.good.asOf
	if f.Stale && f.CheckedAt.After(asked) {
		asked = f.CheckedAt
	}
	p.extraAt = now
	if slot := p.schedule.next(now).Add(-p.config.Interval); !asked.Before(slot) {
		p.extraAt = time.Time{}
	}
}

// sayLast makes the poll say, before it stops, when it was last confirmed, if
// the stream does not know; once, as a stop must come to an end.
func (p *poll) sayLast(now time.Time) {
	f := p.stored.fresh
	if f == nil || !p.known || p.stale || p.lastSaid.Equal(p.good.asOf) {
		return
	}
	if p.lastSaid = p.good.asOf; told(p.good.asOf, now).After(f.AsOf) {
		p.renew = true
	}
}

// inherit takes over the memory of a poll with another configuration.
func (p *poll) inherit(old *poll) {
	p.begun = old.begun
	p.attempts.inherit(old.attempts, func(i int8) int8 {
		if i < 0 || int(i) >= len(old.upstreams.list) {
			return -1
		}
		name := old.upstreams.list[i].name
		return int8(slices.IndexFunc(p.upstreams.list, func(u *upstream) bool { return u.name == name }))
	})
	p.lines.inherit(old.lines)
	p.skipped, p.slot = old.skipped, old.slot
	if p.config.Interval != old.config.Interval {
		p.slot = time.Time{}
	}
	if p.shape.keyed() != old.shape.keyed() || (p.follow == nil) != (old.follow == nil) {
		return // the stream tells what there is
	}
	if p.follow != nil {
		p.follow.inherit(old.follow)
	}
	p.stored, p.good, p.keys = old.stored, old.good, old.keys
	// What counts as another value may have changed.
	redo := func(g *lastGood) {
		if g.value == nil {
			return
		}
		if d, err := digestOf(g.value, p.ignore); err == nil {
			g.digest = d
		}
	}
	redo(&p.good)
	for _, k := range p.keys {
		redo(&k.good)
	}
	if reflect.DeepEqual(p.config.MustAdvance, old.config.MustAdvance) && p.config.Select == old.config.Select {
		p.advanced = old.advanced
	}
	p.known, p.stale, p.staleSince, p.reason, p.detail = old.known, old.stale, old.staleSince, old.reason, old.detail
	p.whole, p.failures, p.checkedAt, p.last = old.whole, old.failures, old.checkedAt, old.last
	p.same = reflect.DeepEqual(p.config, old.config)
}

// before is what the next answer is compared with.
func (p *poll) before() before {
	b := before{last: earlier{p.good.value, p.good.digest}, seed: p.advanced.mark == nil}
	if p.shape.keyed() {
		b.keys = make(map[string]earlier, len(p.keys))
		for token, k := range p.keys {
			b.keys[token] = earlier{k.good.value, k.good.digest}
		}
	}
	return b
}
