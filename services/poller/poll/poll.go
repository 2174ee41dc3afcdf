package poll

import (
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/services/poller/ask"
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
	Schedule *config.Schedule
	host     Host
	lines    *history.Lines          // of the log
	session  atomic.Pointer[session] // the last; nil before the first
	woken    atomic.Bool             // a breaker changed, or NATS came back
	// unchanged: it inherits from a poll that was configured in the same way.
	unchanged bool

	mu    sync.Mutex
	state state // guarded by mu
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

// New makes a poll, which does nothing before Begin.
func New(o Options) *Poll {
	p := &Poll{
		Asker: o.Asker, Schedule: &o.Schedule, host: o.Host, lines: o.Lines,
		state: state{
			Asker: o.Asker, schedule: &o.Schedule, host: o.Host, counts: o.Counts, attempts: new(history.Attempts),
			topics: topics{poll: o.Asker.Topic, always: o.Always, ignore: o.Asker.Ignore, byToken: map[string]*topic{}},
		},
	}
	if o.Sequence != nil {
		p.state.kind = &following{s: &p.state, Sequence: o.Sequence}
		p.ReadHead = o.Sequence.HeadOf
	} else {
		p.state.kind = &values{s: &p.state}
	}
	return p
}

// Resume takes up the poll under a new tenure: from memory, or from what the last
// holder left in the stream, whichever is later.
func (p *Poll) Resume(r record.Recovered) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := clock.Now()
	p.state.topics.forgetTenure()
	p.state.outbox.resume(r, now)
	p.state.trust.confirmedHere = false
	p.state.kind.resume(r, now)
	state, _, _ := p.Upstreams.State()
	if v, ok := p.state.trust.resume(r.Fresh, state, p.Config.MaxAge, now); ok {
		p.Log.Warn("value is stale", "reason", v.reason, "detail", v.detail, "age", age(now, p.state.trust.asOf))
	}
	p.state.ticks.resume(*p.Schedule, now, p.unchanged)
	p.unchanged = false
}

// SkipFirst leaves the first tick of a tenure out if the last holder, who gave the
// lease back, has polled in this slot. Otherwise it makes that tick due now.
func (p *Poll) SkipFirst(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.state.outbox.state.Fresh
	if f == nil {
		return
	}
	asked := p.state.trust.asOf
	if f.Stale {
		asked = clock.Later(asked, f.CheckedAt)
	}
	p.state.ticks.extraAt = now
	if slot := p.Schedule.Next(now).Add(-p.Config.Interval); !asked.Before(slot) {
		p.state.ticks.extraAt = time.Time{}
	}
}

// Inherit takes over the memory of a poll with another configuration. Neither of them
// runs. A field that is new in Poll needs a place here, or in the list of those that do
// not go over (TestInheritKnowsEveryField).
func (p *Poll) Inherit(old *Poll) {
	p.state.attempts.Inherit(old.state.attempts, func(i int8) int8 {
		if i < 0 || int(i) >= len(old.Upstreams.List) {
			return -1
		}
		name := old.Upstreams.List[i].Name
		return int8(slices.IndexFunc(p.Upstreams.List, func(u *ask.Upstream) bool { return u.Name == name }))
	})
	p.lines.Inherit(old.lines)
	p.state.ticks.inherit(&old.state.ticks, p.Config.Interval == old.Config.Interval)
	p.state.ran = old.state.ran
	if !p.state.kind.inherit(old.state.kind) {
		return // the stream tells what there is
	}
	p.state.trust, p.state.outbox, p.state.last = old.state.trust, old.state.outbox, old.state.last
	p.state.topics.inherit(&old.state.topics)
	p.unchanged = reflect.DeepEqual(p.Config, old.Config)
}

func age(now, then time.Time) time.Duration { return now.Sub(then).Round(time.Millisecond) }
