package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/poll"
	"github.com/pollcast/pollcast/services/poller/record"
	"github.com/pollcast/pollcast/services/poller/source"
)

// Random lives of a source: successes, every kind of failure, restarts and
// crashes of the poller, steps of its clock. The circuit, the calls it lets
// through, the transitions and every record that clients read agree with the
// rule; what is told of a value's age is never younger than the truth.
func TestRandomLives(t *testing.T) {
	eachSeed(t, func(t *testing.T, r *rand.Rand) {
		w := newWorld(t, r)
		synctest.Test(t, func(t *testing.T) {
			w.t = t
			w.live()
		})
	})
}

// kind is a way in which a call ends.
type kind struct {
	name     string
	reason   event.Reason // "" for a value
	innocent bool         // for the circuit it is a success
	failure  *source.Failure
}

var kinds = []kind{
	{name: "value"},
	{name: "5xx", reason: event.UpstreamError, failure: &source.Failure{Reason: event.UpstreamError, Detail: "HTTP 503", Counts: true}},
	{name: "refused", reason: event.UpstreamError, failure: &source.Failure{Reason: event.UpstreamError, Detail: "connection refused", Counts: true}},
	{name: "timeout", reason: event.Timeout, failure: &source.Failure{Reason: event.Timeout, Detail: "no answer", Counts: true}},
	{name: "garbage", reason: event.BadResponse, failure: &source.Failure{Reason: event.BadResponse, Detail: "not JSON", Counts: true}},
	{name: "unclassified", reason: event.UpstreamError},
	{name: "panic", reason: event.BadResponse},
	{name: "retry after", reason: event.UpstreamError},
	{name: "rejected", reason: event.RequestRejected, innocent: true, failure: &source.Failure{Reason: event.RequestRejected, Detail: "HTTP 404"}},
	{name: "jq", reason: event.BadResponse, innocent: true},
}

// end is what a call gives that brings no value.
func (k kind) end(retryAfter time.Duration) (string, error) {
	switch {
	case k.failure != nil:
		return "", k.failure
	case k.name == "retry after":
		return "", &source.Failure{Reason: k.reason, Detail: "HTTP 429", Counts: true, RetryAfter: retryAfter}
	case k.name == "unclassified":
		return "", errors.New("something else")
	case k.name == "panic":
		panic("index out of range")
	}
	return `[1]`, nil
}

// world is what is true, beside what the poller says.
type world struct {
	mu     sync.Mutex
	t      *testing.T
	r      *rand.Rand // the poller's fate
	ill    *rand.Rand // the upstream's
	c      config.Source
	stages []*stage // one for each life of the poller
	life   int
	from   time.Time // of this life

	rule  rule
	turns []string  // transitions that the rule made in this life
	begun time.Time // the last call
	by    time.Time // the next call begins by then
	mood  float64   // how likely a call is good

	value     int
	sent      time.Time // when the call began that last confirmed the value, by the poller's clock
	confirmed time.Time // when the upstream answered it, by a clock that is never set
	changed   time.Time
	behind    time.Duration // how much the told times may be too young, after the clock was set back
	last      kind
	failures  int
	called    bool // in this life
	waiting   bool // it began while the upstream wanted to be left alone
	silent    bool // before it the value was not checked, or not confirmed, for maxAge
	lost      bool // a crash took the value along before it was stored

	told    event.Freshness // the last record
	event   *event.Event    // the last one
	breaker *event.Breaker  // the last transition
	streak  int             // the rule's, when the last record was told
	until   time.Time       // the same
	turned  []string        // transitions that were told in this life
	hush    func()          // ends the telling of them
	// circuits came with told, and with breaker.
	circuits, breakerCircuits []event.Circuit
	version                   uint64
	said                      time.Time // the last of either
	burst                     int       // how many at that moment
	// Of the stream, and of the last two in it.
	seq, eventSeq, freshSeq uint64
}

const lives = 5

// soon is how late a call may be: what comes due while another tick is tried
// waits 50 ms.
const soon = 60 * time.Millisecond

func newWorld(t *testing.T, r *rand.Rand) *world {
	intervals := []time.Duration{100 * time.Millisecond, 250 * time.Millisecond, time.Second, 5 * time.Second, 12 * time.Second, time.Minute, 10 * time.Minute, time.Hour}
	interval := intervals[r.IntN(len(intervals))]
	openFor := max(interval, []time.Duration{time.Second, 20 * time.Second, 5 * time.Minute}[r.IntN(3)])
	failures := 1 + r.IntN(6)
	w := &world{t: t, r: r, ill: rand.New(rand.NewPCG(r.Uint64(), 0)), mood: 1, rule: rule{failures: failures, openFor: openFor, state: event.Closed}}
	w.c = config.Source{
		Breaker: config.Breaker{Failures: failures, OpenFor: openFor},
		Polls:   map[string]config.Poll{"a": {Interval: interval, Method: "a", Select: ".v"}},
	}
	t.Logf("interval %v, %d failures, openFor %v", interval, failures, openFor)
	for range lives {
		s := newNamedStage(t, "lives", w.c, w.answer)
		for _, p := range s.r.Polls {
			p.Schedule.Exact = true // the seed decides, nothing else
		}
		s.onPut = w.read
		w.stages = append(w.stages, s)
	}
	return w
}

func (w *world) poll() *poll.Poll { return w.stages[w.life].r.Polls[0] }

// live is a walk through all lives.
func (w *world) live() {
	interval := w.poll().Config.Interval
	defer func() {
		w.stages[w.life].end()
		w.hush()
	}()
	w.begin(record.Recovered{}, bus.Message{})
	for w.life < lives-1 || w.r.IntN(8) > 0 {
		w.mu.Lock()
		rule := w.rule
		w.mu.Unlock()
		switch n := w.r.IntN(20); {
		case n < 14:
			w.pass(time.Duration(w.r.Float64() * 6 * float64(interval)))
		case n < 17:
			mood := []float64{1, .9, .5, .2, 0}[w.r.IntN(5)]
			w.mu.Lock()
			w.mood = mood
			w.mu.Unlock()
		case n < 18 && rule.state == event.Open:
			w.pass(time.Until(rule.probe) + time.Duration(w.r.Int64N(int64(interval))))
		case n < 20 && w.life < lives-1 && w.r.IntN(4) == 0:
			w.restart()
		}
	}
	w.end(true)
}

// pass lets time go by, and looks.
func (w *world) pass(d time.Duration) {
	if d <= 0 {
		return
	}
	time.Sleep(d)
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := time.Now(); now.After(w.by) {
		w.t.Fatalf("no call after %v, one was due by %v; the rule says %s", now.Sub(w.from), w.by.Sub(w.from), w.rule.state)
	}
	c := w.stages[w.life].r.Upstreams.List[0].Circuit
	if have := c.Snapshot(); have.State != w.rule.state || have.Streak != w.rule.streak {
		w.t.Fatalf("the circuit is %s after %d failures, the rule says %s after %d", have.State, have.Streak, w.rule.state, w.rule.streak)
	}
	if open := c.HystrixOpen(); open != (w.rule.state != event.Closed) {
		w.t.Fatalf("hystrix says open = %v, the rule %s", open, w.rule.state)
	}
}

// answer is the upstream.
func (w *world) answer(ctx context.Context, _, _ string) (string, error) {
	w.mu.Lock()
	now := time.Now()
	if !w.rule.lets(now) {
		w.t.Errorf("a call after %v: the rule says %s, probe in %v, wait %v", now.Sub(w.from), w.rule.state, w.rule.probe.Sub(now), w.rule.wait.Sub(now))
	}
	if now.After(w.by) {
		w.t.Errorf("a call after %v, due by %v", now.Sub(w.from), w.by.Sub(w.from))
	}
	before := w.rule.state
	turn := w.rule.begins()
	w.turn(before)
	// It may stand in for a tick that would have come soon after.
	w.begun, w.by = now, now.Add(time.Duration(1.1*float64(w.poll().Config.Interval))+soon)

	k := kinds[0]
	if w.ill.Float64() >= w.mood {
		k = kinds[1+w.ill.IntN(len(kinds)-1)]
	}
	took := time.Millisecond + time.Duration(w.ill.Int64N(int64(w.poll().Config.Timeout)*8/10))
	if k.name == "timeout" {
		took = time.Hour
	}
	w.mu.Unlock()
	select {
	case <-time.After(took):
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) {
			return "", ctx.Err() // nothing was learnt
		}
	}
	return w.finish(k, now, turn)
}

// finish ends a call that began at sent.
func (w *world) finish(k kind, sent time.Time, turn int) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	retryAfter := time.Duration(0)
	if k.name == "retry after" {
		retryAfter = time.Duration(1+w.ill.IntN(90)) * time.Second
	}
	before := w.rule.state
	w.rule.ends(now, turn, k.reason == "" || k.innocent, retryAfter)
	w.turn(before)
	// A tick that came while it was under way is skipped.
	w.by = now.Add(w.by.Sub(sent))
	if w.rule.state == event.Open {
		w.by = w.rule.probe.Add(soon)
	} else if w.rule.wait.After(now) {
		w.by = w.rule.wait.Add(w.by.Sub(now))
	}
	w.last, w.called = k, true
	if k.reason != "" {
		w.failures++
	}
	if k.reason != "" {
		return k.end(retryAfter)
	}
	w.failures = 0
	if w.value == 0 || w.lost || w.ill.IntN(3) == 0 {
		w.value++
		w.lost = false
		w.changed = clock.Stamp(sent)
	}
	w.sent, w.confirmed, w.behind = clock.Stamp(sent), now, 0
	return fmt.Sprintf(`{"v":%d}`, w.value), nil
}

func (w *world) turn(from event.State) {
	if w.rule.state != from {
		w.turns = append(w.turns, fmt.Sprint(from, ">", w.rule.state, " ", w.rule.streak))
	}
}

// read is a client of the stream.
func (w *world) read(j record.Job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if c := own(j); c != nil {
		e := c.Event
		if w.event != nil && string(e.Data) == string(w.event.Data) {
			w.t.Errorf("payload %s is sent again", e.Data)
		}
		if string(e.Data) != fmt.Sprint(w.value) || !e.ChangedAt.Equal(w.changed) || !e.AsOf.Equal(w.sent) {
			w.t.Errorf("event %s changed %v as of %v; the truth is %d, %v, %v", e.Data, e.ChangedAt, e.AsOf, w.value, w.changed, w.sent)
		}
		w.version++
		if v := c.Known.Version + 1; v != w.version {
			w.t.Errorf("version %d, want %d", v, w.version)
		}
		stored := *e
		stored.Version = w.version
		w.seq++
		w.event, w.eventSeq = &stored, w.seq
	}
	if w.burst++; !w.said.Equal(now) {
		w.said, w.burst = now, 0
	} else if w.burst > 100 {
		panic("the poll says one thing after the other without a pause")
	}
	f := j.Fresh
	if f == nil {
		return
	}
	w.seq++
	w.freshSeq = w.seq
	fail := func(format string, args ...any) {
		data, _ := json.Marshal(f)
		w.t.Errorf("life %d, after %v: %s; the record is %s, the rule says %s", w.life, now.Sub(w.from), fmt.Sprintf(format, args...), data, w.rule.state)
	}
	// At the moment at which a probe begins a record may tell either.
	same := f.Breaker == w.rule.state ||
		f.Breaker == event.HalfOpen && w.rule.state == event.Open && w.rule.lets(now) ||
		f.Breaker == event.Open && w.rule.state == event.HalfOpen && w.begun.Equal(now)
	if !same {
		fail("wrong breaker")
	}
	if off := f.NextProbeAt.Sub(w.rule.probe); f.Breaker == event.Open && off.Abs() > time.Duration(3+w.life)*time.Millisecond { // each life rounds up
		fail("next probe is off by %v", off)
	}
	if f.ConsecutiveFailures != w.failures {
		fail("want %d failures", w.failures)
	}
	if f.Stale != (f.Reason != "") {
		fail("stale and reason disagree")
	}
	switch reasons := w.reasons(); {
	case !slices.Contains(reasons, f.Reason):
		fail("want one of the reasons %q", reasons)
	case !f.AsOf.Equal(w.sent) && w.behind == 0:
		fail("want as of %v", w.sent)
	case !w.confirmed.IsZero() && f.AsOf.After(w.confirmed.Add(w.behind)):
		fail("the value was confirmed at %v, the record is younger by %v", w.confirmed, f.AsOf.Sub(w.confirmed))
	case f.AsOf.After(now):
		fail("as of a time to come")
	}
	w.told, w.circuits, w.streak, w.until, w.rule.told = *f, j.Circuits, w.rule.streak, w.rule.until, now
}

// tellTurns publishes transitions.
func (w *world) tellTurns(s *stage, fence uint64, quiet <-chan struct{}) {
	for {
		b, ok, more := s.r.queue.head()
		if !ok {
			select {
			case <-more:
				continue
			case <-quiet:
				return
			}
		}
		circuits := s.r.Upstreams.Memos()
		w.mu.Lock()
		b.Fence = fence
		w.breaker, w.breakerCircuits, w.streak, w.until = &b, circuits, w.rule.streak, w.rule.until
		w.rule.told = time.Now()
		if b.Cause != "probe was cut short" {
			w.turned = append(w.turned, fmt.Sprint(b.From, ">", b.To, " ", b.Failures))
		}
		w.mu.Unlock()
		s.r.queue.drop(b)
	}
}

// reasons are those that a record may give now.
func (w *world) reasons() (all []event.Reason) {
	if !w.called && w.waiting {
		all = []event.Reason{event.UpstreamError}
	}
	return append(all, w.otherReasons()...)
}

func (w *world) otherReasons() []event.Reason {
	switch {
	case !w.called && w.told.Stale: // as the last life left it
		if w.rule.state != event.Closed {
			return []event.Reason{w.told.Reason, event.BreakerOpen}
		}
		return []event.Reason{w.told.Reason}
	case !w.called && w.rule.state != event.Closed:
		return []event.Reason{event.BreakerOpen, event.PollerSilent}
	case !w.called:
		if w.silent {
			return []event.Reason{event.PollerSilent}
		}
		return []event.Reason{""}
	case w.rule.state != event.Closed:
		return []event.Reason{w.last.reason, event.BreakerOpen}
	}
	return []event.Reason{w.last.reason}
}

// restart ends a life, in peace or not, and begins the next one a while later
// under a clock that may have been set meanwhile.
func (w *world) restart() {
	peace := w.r.IntN(2) == 0
	w.end(peace)
	if w.sent.Sub(w.told.AsOf) > 2*w.poll().Config.Interval && peace && w.behind == 0 {
		w.t.Errorf("last confirmed at %v, last said as of %v", w.sent, w.told.AsOf)
	}
	w.sent = w.told.AsOf // what the stream does not hold is lost
	if w.eventSeq > w.freshSeq {
		w.sent = w.event.AsOf
	}
	if !peace {
		w.failures = w.told.ConsecutiveFailures
		w.lost = w.event == nil || string(w.event.Data) != fmt.Sprint(w.value)
	}
	time.Sleep(time.Duration(w.r.Float64() * 5 * float64(w.poll().Config.MaxAge)))
	var step time.Duration
	if w.r.IntN(2) == 0 {
		step = []time.Duration{-time.Hour, -3 * time.Second, 3 * time.Second, time.Hour}[w.r.IntN(4)]
	}
	w.life++
	left, b := w.left(step)
	silence := time.Since(w.told.CheckedAt)
	confirmed := left.Own().AsOf()
	w.silent = silence.Abs() > w.poll().Config.MaxAge ||
		!confirmed.IsZero() && time.Since(confirmed) > w.poll().Config.MaxAge
	w.begin(left, b)
}

// left is what the last life left in the stream, seen by a clock that was set
// by step.
func (w *world) left(step time.Duration) (record.Recovered, bus.Message) {
	shift := func(at *time.Time) {
		if !at.IsZero() {
			*at = at.Add(-step)
		}
	}
	var r record.Recovered
	if w.event != nil {
		e := *w.event
		shift(&e.AsOf)
		shift(&e.ChangedAt)
		r.Event, r.EventSeq, w.event = &e, w.eventSeq, &e
	}
	if w.freshSeq > 0 {
		f := w.told
		shift(&f.AsOf)
		shift(&f.CheckedAt)
		shift(&f.NextProbeAt)
		r.Fresh, r.FreshSeq, w.told = &f, w.freshSeq, f
	}
	if w.breaker != nil {
		b := *w.breaker
		shift(&b.At)
		shift(&b.NextProbeAt)
		w.breaker = &b
	}
	shift(&w.sent)
	shift(&w.changed)
	w.behind += max(0, -step)
	shiftAll := func(all []event.Circuit) []event.Circuit {
		all = slices.Clone(all)
		for i := range all {
			shift(&all[i].At)
			shift(&all[i].NextProbeAt)
			shift(&all[i].WaitUntil)
		}
		return all
	}
	w.circuits, w.breakerCircuits = shiftAll(w.circuits), shiftAll(w.breakerCircuits)
	r.Circuits = w.circuits
	if w.rule.state == event.Closed {
		w.rule.streak = w.streak // what was not told is lost
	}
	w.rule.until = w.until
	w.rule.restarts(time.Now(), step)
	return r, bus.Message{Breaker: w.breaker, Circuits: w.breakerCircuits}
}

func (w *world) begin(left record.Recovered, b bus.Message) {
	s := w.stages[w.life]
	s.T, w.from, w.called, w.turns, w.turned = w.t, time.Now(), false, nil, nil
	w.by = w.from.Add(w.poll().Config.Interval + soon)
	if w.waiting = w.rule.until.After(w.from); w.waiting {
		w.by = w.by.Add(w.rule.until.Sub(w.from))
	}
	if w.rule.state == event.Open {
		w.by = w.rule.probe.Add(soon)
	}
	quiet, told := make(chan struct{}), make(chan struct{})
	w.hush = sync.OnceFunc(func() { close(quiet); <-told })
	go func() { w.tellTurns(s, uint64(7+w.life), quiet); close(told) }()
	s.startFrom(uint64(7+w.life), map[string]record.Recovered{w.poll().Topic: left}, b)
	synctest.Wait()
}

// end stops the poller, or lets it crash, and compares the transitions.
func (w *world) end(peace bool) {
	s := w.stages[w.life]
	if !peace {
		s.cut()
	}
	s.end()
	w.hush()
	if !slices.Equal(w.turned, w.turns) {
		w.t.Errorf("transitions of life %d are %q, want %q", w.life, w.turned, w.turns)
	}
}
