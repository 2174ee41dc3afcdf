package poll

import (
	"errors"
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
	"github.com/pollcast/pollcast/services/poller/record"
	"github.com/pollcast/pollcast/services/poller/walk"
)

// Poll is one call, repeated. It is no goroutine: whoever brings news, a timer, an
// answer or an acknowledgement, takes mu and lets the poll advance. mu is never held
// while something waits: at most one round of calls and one publish are under way,
// and run without it.
type Poll struct {
	*ask.Asker
	Schedule config.Schedule
	host     Host
	counts   *history.Counts
	attempts *history.Attempts
	lines    *history.Lines          // of the log
	session  atomic.Pointer[session] // the last; nil before the first
	woken    atomic.Bool             // a breaker changed, or NATS came back
	// unchanged: it inherits from a poll that was configured in the same way.
	unchanged bool

	mu     sync.Mutex // guards all that follows
	ticks  ticks
	trust  trust
	topics topics
	kind   kind
	outbox outbox
	last   lastTick
	ran    bool // there was a tenure
}

// Options is what a Poll is made of.
type Options struct {
	Asker    *ask.Asker
	Host     Host
	Schedule config.Schedule
	Sequence *walk.Sequence // that it follows; nil: none
	Always   bool           // every reading is an event
	Counts   *history.Counts
	Lines    *history.Lines // of the log
}

// Host is what a poll needs of the source that it is part of. Its methods do not wait.
type Host interface {
	// Stream is where records go.
	Stream() Stream
	// Lose ends the tenure at once.
	Lose(error)
	// Complain reports that the stream does not take records.
	Complain(error)
	// WakePolls has all polls of the source advance.
	WakePolls()
	// StreamAnew reports that the stream holds nothing any more of what it held.
	StreamAnew()
}

// lastTick is the last tick, for the status.
type lastTick struct {
	outcome string
	at      time.Time
	took    time.Duration
}

// New makes a poll, which does nothing before Begin.
func New(o Options) *Poll {
	p := &Poll{
		Asker: o.Asker, Schedule: o.Schedule, host: o.Host, counts: o.Counts, attempts: new(history.Attempts), lines: o.Lines,
		topics: topics{poll: o.Asker.Topic, always: o.Always, ignore: o.Asker.Ignore, byToken: map[string]*topic{}},
	}
	if o.Sequence != nil {
		p.kind = &following{p: p, Sequence: o.Sequence}
		p.ReadHead = o.Sequence.HeadOf
	} else {
		p.kind = &values{p: p}
	}
	return p
}

// Resume takes up the poll under a new tenure: from memory, or from what the last
// holder left in the stream, whichever is later.
func (p *Poll) Resume(r record.Recovered) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := clock.Now()
	p.topics.forgetTenure()
	p.outbox.resume(r, now)
	p.trust.confirmedHere = false
	p.kind.resume(r, now)
	state, _, _ := p.Upstreams.State()
	if v, ok := p.trust.resume(r.Fresh, state, p.Config.MaxAge, now); ok {
		p.Log.Warn("value is stale", "reason", v.reason, "detail", v.detail, "age", age(now, p.trust.asOf))
	}
	p.ticks.resume(p.Schedule, now, p.unchanged)
	p.unchanged = false
}

// SkipFirst leaves the first tick of a tenure out if the last holder, who gave the
// lease back, has polled in this slot. Otherwise it makes that tick due now.
func (p *Poll) SkipFirst(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.outbox.state.Fresh
	if f == nil {
		return
	}
	asked := p.trust.asOf
	if f.Stale {
		asked = clock.Later(asked, f.CheckedAt)
	}
	p.ticks.extraAt = now
	if slot := p.Schedule.Next(now).Add(-p.Config.Interval); !asked.Before(slot) {
		p.ticks.extraAt = time.Time{}
	}
}

// Inherit takes over the memory of a poll with another configuration. Neither of them
// runs. A field that is new in Poll needs a place here, or in the list of those that do
// not go over (TestInheritKnowsEveryField).
func (p *Poll) Inherit(old *Poll) {
	p.attempts.Inherit(old.attempts, func(i int8) int8 {
		if i < 0 || int(i) >= len(old.Upstreams.List) {
			return -1
		}
		name := old.Upstreams.List[i].Name
		return int8(slices.IndexFunc(p.Upstreams.List, func(u *ask.Upstream) bool { return u.Name == name }))
	})
	p.lines.Inherit(old.lines)
	p.ticks.inherit(&old.ticks, p.Config.Interval == old.Config.Interval)
	p.ran = old.ran
	if !p.kind.inherit(old.kind) {
		return // the stream tells what there is
	}
	p.trust, p.outbox, p.last = old.trust, old.outbox, old.last
	p.topics.inherit(&old.topics)
	p.unchanged = reflect.DeepEqual(p.Config, old.Config)
}

// take learns from a reading, and from what was found after it. A tick for a probe that
// failed while another upstream's circuit is closed says nothing about the value.
func (p *Poll) take(r ask.Reading, found *walk.Walked, k tickKind) {
	if r.Report() { // the records of other polls may speak of it
		p.host.WakePolls()
	}
	now := clock.Now()
	if p.ticks.starved = r.Starved && r.Abandoned; p.ticks.starved && k != probeTick {
		p.ticks.extraAt = now.Add(p.Schedule.Start())
	}
	if r.Abandoned {
		return
	}
	p.outbox.renew = p.outbox.renew || r.Failure == nil && r.FailedOver() // for the next holder
	outcome := history.OutcomeOK
	switch {
	case r.Failure != nil:
		outcome = string(r.Failure.Reason)
	case p.kind.standsStill(r, now):
		outcome = string(event.NotAdvancing)
	}
	p.count(outcome, now, r.Took, r.Up)
	p.counts.Duration(r.Took)
	p.kind.keep(r, found, now)
	state, _, _ := p.Upstreams.State()
	if f := r.Failure; f != nil {
		if k != probeTick || !f.Counts || state != event.Closed {
			p.judge(p.trust.failed(f), now)
		}
		return
	}
	p.kind.take(r)
	p.topics.forgetGone(now)
	p.trust.failures = 0
	if state != event.Closed { // the call began before the circuit opened
		p.judge(p.open(), now)
	} else if v, ok := p.kind.verdict(now); ok {
		p.judge(v, now)
	}
}

// refused is a tick in which no upstream could be asked.
func (p *Poll) refused(k tickKind, err error, now time.Time) {
	switch {
	case k == probeTick: // another poll was first
	case errors.Is(err, breaker.ErrQuota):
		// The value is as good as its age. Readers would take it for stale by silence;
		// the poller says it itself.
		p.skip(1)
		if now.Sub(p.trust.asOf) > p.Config.MaxAge {
			p.judge(stale(event.PollerSilent, "not asked: "+err.Error()), now)
		}
	case errors.Is(err, breaker.ErrWait):
		p.skip(1)
		p.checked(now)
		p.judge(stale(event.UpstreamError, "upstream asked to wait (Retry-After)"), now)
	default:
		p.count(string(event.BreakerOpen), now, 0, nil)
		p.judge(p.open(), now)
	}
}

// open is the verdict while all circuits are open: because of the poll's own last
// failure, or of what opened the circuit.
func (p *Poll) open() verdict {
	detail := p.trust.detail
	if !p.trust.stale || detail == "" {
		_, _, detail = p.Upstreams.State()
	}
	return stale(event.BreakerOpen, detail)
}

// judge makes a verdict the one that holds. Nothing else does.
func (p *Poll) judge(v verdict, now time.Time) {
	t := &p.trust
	switch {
	case v.stale && (!t.stale || !t.known) && t.asOf.IsZero():
		p.Log.Warn("no value yet", "reason", v.reason, "detail", t.full.For(v.detail))
	case v.stale && (!t.stale || !t.known):
		p.Log.Warn("value is stale", "reason", v.reason, "detail", t.full.For(v.detail), "age", age(now, t.asOf))
	case !v.stale && t.stale:
		p.Log.Info("value is fresh again", "stale_for", age(now, t.since))
	}
	t.set(v, now)
}

// count keeps a tick's outcome; up is nil if no upstream was asked.
func (p *Poll) count(outcome string, now time.Time, took time.Duration, up *ask.Upstream) {
	p.attempts.Add(outcome, now.Add(-took), took, slices.Index(p.Upstreams.List, up))
	p.counts.Outcome(outcome)
	p.last = lastTick{outcome, now, took}
	p.checked(now)
}

// checked notes that the value was looked at, and whether its record is to be renewed.
func (p *Poll) checked(now time.Time) {
	p.trust.checkedAt = clock.Stamp(now)
	p.outbox.renew = p.outbox.renew || p.outbox.renewalDue(p.Config.Interval, p.Config.MaxAge, now)
}

func (p *Poll) skip(n uint64) {
	p.ticks.skipped += n
	p.counts.Skipped.Add(n)
}

func age(now, then time.Time) time.Duration { return now.Sub(then).Round(time.Millisecond) }
