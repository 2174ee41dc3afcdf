package poll

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
	"github.com/pollcast/pollcast/services/poller/ask"
	"github.com/pollcast/pollcast/services/poller/breaker"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/history"
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/record"
	"github.com/pollcast/pollcast/services/poller/walk"
)

// poll is one call, repeated. It is no goroutine: whoever brings news, a timer, an
// answer, an acknowledgement, takes mu and lets the poll advance. mu is never
// held while somebody waits: at most one call and one publish are on their way,
// and are made without it.
type Poll struct {
	*ask.Asker
	Host     Host
	Follow   *Follower // nil: it walks no sequence
	Always   bool      // every reading is an event
	Schedule config.Schedule
	Counts   *history.Counts
	same     bool                    // as before a reload, in a source that changed otherwise
	life     atomic.Pointer[session] // the last; nil before the first
	woken    atomic.Bool             // a breaker changed, or NATS came back

	mu    sync.Mutex // guards all that follows
	begun bool       // there was a tenure

	// What is known of the upstream's side.
	Good       record.LastGood   // of a poll with keys, asOf only
	Keys       map[string]*Keyed // by the last token of their topics
	advanced   jq.Progress
	known      bool // there is something to say
	stale      bool
	staleSince time.Time
	reason     event.Reason
	detail     string
	whole      jq.Detail
	failures   int // polls in a row that failed
	checkedAt  time.Time
	last       attempt
	Attempts   *history.Attempts
	Lines      *history.Lines // of the log

	// What the stream knows of it, and what is being said.
	Stored record.Stored
	left   time.Time // what the stream says of asOf, or less; zero: nothing
	saidAt time.Time // when the last freshness record was stored
	// againAt is when values were last stored again that the stream had dropped.
	againAt time.Time
	// lastSaid is the asOf of the record that was made before a stop.
	lastSaid time.Time
	renew    bool // a renewal is due
	putting  bool
	retry    record.Backoff

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
type Host interface {
	Stream() Stream
	// lose ends the tenure at once.
	Lose(error)
	// complain says that the stream does not take records.
	Complain(error)
	// wakePolls has all polls of the source look around.
	WakePolls()
	// streamAnew says that the stream holds nothing any more of what it held.
	StreamAnew()
}

// stream is where records go, and what was published is read back.
type Stream interface {
	Put(context.Context, record.Job) (record.Stored, error)
	// enter waits for a place among the publishes that are under way; in is false
	// if ctx ended before there was one. Each is given back by leave.
	Enter(ctx context.Context) (waited, in bool)
	Leave()
	// MaxPayload is the longest value that NATS takes, in bytes; 0: not known. size is
	// that of the value in question.
	MaxPayload(size int) int64
	ReadBack(ctx context.Context, topic string, messages uint64, each func(*event.Event)) error
}

// attempt is the last tick, for the status.
type attempt struct {
	outcome string
	at      time.Time
	took    time.Duration
}

// putDone is the outcome of one publish.
type PutDone struct {
	job    record.Job
	Stored record.Stored
	Err    error
}

// resume takes up the poll under a new tenure: from memory, or from what the
// last owner left in the stream, whichever is later.
func (p *Poll) Resume(r record.Recovered) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := clock.Now()
	r = p.sort(r)
	p.Stored.Learn(r, p.Ignore)
	p.Stored.Recovered, p.Stored.Fenced, p.Stored.Synced = nil, false, false
	p.Good.ConfirmedHere, p.left = false, r.Confirmed(now)
	if p.Follow != nil {
		p.Follow.resume(r, now)
		p.Good.AsOf = clock.Later(p.Good.AsOf, clock.Anchor(r.AsOf(), now))
	} else {
		p.Good.Restore(r, p.Stored.Digest, now)
		p.Stored.Recognise(&p.Good, r.Event, now)
	}
	p.resumeKeys(r)
	if f := r.Fresh; (p.Shape.Keyed() || p.Follow != nil) && f != nil && f.AsOf.After(p.Good.AsOf) {
		p.Good.AsOf = clock.Anchor(f.AsOf, now)
	}
	if f := r.Fresh; f != nil && f.CheckedAt.After(p.checkedAt) {
		p.known, p.checkedAt = true, f.CheckedAt
		p.stale, p.reason, p.detail, p.failures = f.Stale, f.Reason, f.Detail, f.ConsecutiveFailures
		p.staleSince = f.CheckedAt
	} else if f == nil && !p.known && !p.Good.AsOf.IsZero() {
		p.known = true
		p.stale, p.reason, p.staleSince = true, event.PollerSilent, p.Good.AsOf
	}
	if p.Follow != nil && !p.known { // for the record that shuts others out
		p.known, p.stale, p.reason, p.staleSince = true, true, event.PollerSilent, now
	}
	if breaker, _, _ := p.Upstreams.State(); p.stale && p.reason == event.BreakerOpen && breaker == event.Closed {
		p.reason = event.UpstreamError // the circuit's memory is gone, as with a new URL
	}
	// Readers take the value for stale since maxAge has passed without a record:
	// the first record must not say otherwise before the upstream does.
	// Where the clock was set back nobody knows how long that is.
	if silence := now.Sub(p.checkedAt); p.known && !p.stale && silence.Abs() > p.Config.MaxAge {
		p.stale, p.reason, p.staleSince = true, event.PollerSilent, p.checkedAt
		p.detail = "no poller asked for " + silence.Round(time.Second).String()
		if silence < 0 {
			p.staleSince, p.detail = now, "the clock was set back while no poller asked"
		}
		p.Log.Warn("value is stale", "reason", p.reason, "detail", p.detail, "age", age(now, p.Good.AsOf))
	}
	p.putting, p.calling, p.renew = false, false, false
	p.retry, p.saidAt = record.Backoff{}, time.Time{}
	p.aim(now)
	p.extraAt = now.Add(p.Schedule.Start())
	if p.same { // its slots go on
		p.same, p.extraAt = false, time.Time{}
	}
}

// sort puts what the stream holds of the poll's own topic where it belongs: a
// poll with keys has no value there, and deletes what an earlier configuration
// left.
func (p *Poll) sort(r record.Recovered) record.Recovered {
	if p.Shape.Keyed() && r.Event != nil {
		keys := map[string]*event.Event{ask.OwnTopic: r.Event}
		maps.Copy(keys, r.Keys)
		r.Event, r.Keys = nil, keys
	}
	return r
}

// aim chooses the next aligned slot.
func (p *Poll) aim(now time.Time) {
	p.slot = p.Schedule.After(p.slot, now)
	p.tickAt = now.Add(p.slot.Sub(now) + p.Schedule.Delay(p.slot))
}

// due is when the next tick of any kind is.
func (p *Poll) due() time.Time {
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
func (p *Poll) tick(now time.Time) (tickKind, time.Time) {
	// Not aligned, so that its event is not taken for that of another replica's
	// tick.
	kind, slot := noTick, clock.Stamp(now)
	switch {
	case !now.Before(p.tickAt):
		kind, slot = alignedTick, p.slot
		missed := uint64(now.Sub(p.tickAt) / p.Config.Interval)
		if p.calling {
			missed++
		}
		p.skip(missed)
		p.aim(now)
		p.extraAt = time.Time{}
	case !p.extraAt.IsZero() && !now.Before(p.extraAt):
		p.extraAt = time.Time{}
		if p.tickAt.Sub(now) >= config.NearTick(p.Config.Interval) { // otherwise that one will do
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

func (p *Poll) skip(n uint64) {
	p.skipped += n
	p.Counts.Skipped.Add(n)
}

// take learns from a reading. A tick for a probe that failed while another
// upstream's circuit is closed says nothing about the value.
func (p *Poll) take(r ask.Reading, w walk.Walked, k tickKind) {
	if r.Report() { // the records of other polls may tell of it
		p.Host.WakePolls()
	}
	now := clock.Now()
	if p.starved = r.Starved && r.Abandoned; p.starved && k != probeTick {
		p.extraAt = now.Add(p.Schedule.Start())
	}
	if r.Abandoned {
		return
	}
	p.renew = p.renew || r.Failure == nil && r.FailedOver() // for the next owner
	outcome, still := history.OutcomeOK, false
	switch {
	case r.Failure != nil:
		outcome = string(r.Failure.Reason)
	case p.Follow != nil && p.Config.MustAdvance.Within > 0:
		if still = p.advanced.Observe(int(r.Head), r.Sent, p.Config.MustAdvance.Within); still {
			outcome = string(event.NotAdvancing)
		}
	case p.Shape.Advance != nil:
		p.advanced.Seed(r.Seed, clock.Anchor(p.Good.ChangedAt, now))
		if still = p.advanced.Observe(r.Mark, r.Sent, p.Config.MustAdvance.Within); still {
			outcome = string(event.NotAdvancing)
		}
	}
	p.count(outcome, now, r.Took, r.Up)
	p.Counts.Duration(r.Took)
	if p.Follow != nil {
		p.Follow.still = still
		p.takeWalk(r, w, now)
	}
	breaker, _, _ := p.Upstreams.State()
	switch f := r.Failure; {
	case f != nil && k == probeTick && f.Counts && breaker == event.Closed:
		return
	case f != nil:
		p.failures++
		p.whole = jq.Detail{Public: f.Detail, Full: f.Whole}
		p.markStale(f.Reason, f.Detail, now)
		return
	}
	switch {
	case p.Follow != nil: // reflectWalk
	case p.Shape.Keyed():
		p.Good.AsOf, p.Good.ConfirmedHere = r.Sent, true
	default:
		p.Good.Take(r.Value, r.Digest, r.Sent, r.Slot, r.Up.Name, p.Always)
	}
	p.takeKeys(r, now)
	p.failures = 0
	switch {
	case breaker != event.Closed: // the call began before the circuit opened
		p.markStale(event.BreakerOpen, p.whyOpen(), now)
	case p.Follow != nil:
		p.reflectWalk(now)
	case still:
		p.markStale(event.NotAdvancing, p.standsStill(), now)
	default:
		p.markFresh(now)
	}
}

func (p *Poll) standsStill() string {
	return "answers, but has not advanced for more than " + p.Config.MustAdvance.Within.String() + " (mustAdvance)"
}

// refused is a tick in which no upstream could be asked.
func (p *Poll) refused(k tickKind, err error, now time.Time) {
	switch {
	case k == probeTick: // another poll was first
	case errors.Is(err, breaker.ErrQuota):
		// The value is as good as its age. Readers would take it for stale by
		// silence; the poller says it itself.
		p.skip(1)
		if now.Sub(p.Good.AsOf) > p.Config.MaxAge {
			p.markStale(event.PollerSilent, "not asked: "+err.Error(), now)
		}
	case errors.Is(err, breaker.ErrWait):
		p.skip(1)
		p.checkedAt, p.renew = clock.Stamp(now), p.renew || p.renewalDue(now)
		p.markStale(event.UpstreamError, "upstream asked to wait (Retry-After)", now)
	default:
		p.count(string(event.BreakerOpen), now, 0, nil)
		p.markStale(event.BreakerOpen, p.whyOpen(), now)
	}
}

// whyOpen is the poll's own last failure, or what opened the circuit.
func (p *Poll) whyOpen() string {
	if p.stale && p.detail != "" {
		return p.detail
	}
	_, _, cause := p.Upstreams.State()
	return cause
}

// count keeps a tick's outcome; up is nil if no upstream was asked.
func (p *Poll) count(outcome string, now time.Time, took time.Duration, up *ask.Upstream) {
	p.Attempts.Add(outcome, now.Add(-took), took, slices.Index(p.Upstreams.List, up))
	p.Counts.Outcome(outcome)
	p.last = attempt{outcome, now, took}
	p.checkedAt, p.renew = clock.Stamp(now), p.renew || p.renewalDue(now)
}

// renewalDue: every max(interval, maxAge/3), counted in ticks, which are not
// quite an interval apart.
func (p *Poll) renewalDue(now time.Time) bool {
	every := max(p.Config.Interval, p.Config.MaxAge/3)
	return now.Sub(p.saidAt) >= every-p.Config.Interval/2
}

func age(now, then time.Time) time.Duration { return now.Sub(then).Round(time.Millisecond) }

// spare leaves the first poll of a tenure out if the last owner, who gave the
// lease back, has polled in this slot. Otherwise it is due now.
func (p *Poll) SkipFirst(now time.Time) {
	f := p.Stored.Fresh
	if f == nil {
		return
	}
	asked := p.Good.AsOf
	if f.Stale && f.CheckedAt.After(asked) {
		asked = f.CheckedAt
	}
	p.extraAt = now
	if slot := p.Schedule.Next(now).Add(-p.Config.Interval); !asked.Before(slot) {
		p.extraAt = time.Time{}
	}
}

// sayLast makes the poll say, before it stops, when it was last confirmed, if
// the stream does not know; once, as a stop must come to an end.
func (p *Poll) sayLast(now time.Time) {
	f := p.Stored.Fresh
	if f == nil || !p.known || p.stale || p.lastSaid.Equal(p.Good.AsOf) {
		return
	}
	if p.lastSaid = p.Good.AsOf; clock.WallTime(p.Good.AsOf, now).After(f.AsOf) {
		p.renew = true
	}
}

// inherit takes over the memory of a poll with another configuration.
func (p *Poll) Inherit(old *Poll) {
	p.begun = old.begun
	p.Attempts.Inherit(old.Attempts, func(i int8) int8 {
		if i < 0 || int(i) >= len(old.Upstreams.List) {
			return -1
		}
		name := old.Upstreams.List[i].Name
		return int8(slices.IndexFunc(p.Upstreams.List, func(u *ask.Upstream) bool { return u.Name == name }))
	})
	p.Lines.Inherit(old.Lines)
	p.skipped, p.slot = old.skipped, old.slot
	if p.Config.Interval != old.Config.Interval {
		p.slot = time.Time{}
	}
	if p.Shape.Keyed() != old.Shape.Keyed() || (p.Follow == nil) != (old.Follow == nil) {
		return // the stream tells what there is
	}
	if p.Follow != nil {
		p.Follow.inherit(old.Follow)
	}
	p.Stored, p.Good, p.Keys = old.Stored, old.Good, old.Keys
	// What counts as another value may have changed.
	redo := func(g *record.LastGood) {
		if g.Value == nil {
			return
		}
		if d, err := jq.DigestOf(g.Value, p.Ignore); err == nil {
			g.Digest = d
		}
	}
	redo(&p.Good)
	for _, k := range p.Keys {
		redo(&k.good)
	}
	if reflect.DeepEqual(p.Config.MustAdvance, old.Config.MustAdvance) && p.Config.Select == old.Config.Select {
		p.advanced = old.advanced
	}
	p.known, p.stale, p.staleSince, p.reason, p.detail = old.known, old.stale, old.staleSince, old.reason, old.detail
	p.whole, p.failures, p.checkedAt, p.last = old.whole, old.failures, old.checkedAt, old.last
	p.same = reflect.DeepEqual(p.Config, old.Config)
}

// before is what the next answer is compared with.
func (p *Poll) before() ask.Before {
	b := ask.Before{Last: ask.Earlier{Value: p.Good.Value, Digest: p.Good.Digest}, Seed: p.advanced.Mark == nil}
	if p.Shape.Keyed() {
		b.Keys = make(map[string]ask.Earlier, len(p.Keys))
		for token, k := range p.Keys {
			b.Keys[token] = ask.Earlier{Value: k.good.Value, Digest: k.good.Digest}
		}
	}
	return b
}
