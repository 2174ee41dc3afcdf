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

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/poll"
	"github.com/pollcast/pollcast/services/poller/record"
)

// Random lives of a source with several polls and two upstreams, which fail
// each in its own way and mood: every upstream is asked when its own circuit
// lets calls through and never otherwise, the first of them first; when it fails
// the other is asked in the same tick; and each poll's clients are told of its
// own value, and of the source's state.
func TestRandomCrowds(t *testing.T) {
	eachSeed(t, func(t *testing.T, r *rand.Rand) {
		w := newCrowd(t, r)
		synctest.Test(t, func(t *testing.T) {
			w.t = t
			w.live()
		})
	})
}

// crowd is what is true, beside what the poller says.
type crowd struct {
	mu     sync.Mutex
	t      *testing.T
	r      *rand.Rand // the poller's fate
	ill    *rand.Rand // the upstreams'
	stages []*stage   // one for each life of the poller
	life   int
	from   time.Time // of this life
	ups    []*crowdUpstream
	polls  []*crowdPoll
	turned time.Time // when a circuit last changed
	// open says since when some circuit has let ordinary calls through; zero: none
	// does.
	open time.Time

	hush    func()
	breaker *event.Breaker // the last transition that was told
	memos   []event.Circuit
}

type crowdUpstream struct {
	name  string
	mood  float64 // how likely a call is good
	rule  rule
	calls int
	known rule     // when a record last told of it
	turns []string // of this life, as the rule made them
	told  []string
}

type crowdPoll struct {
	*crowd
	index    int
	value    int
	sent     time.Time // of the call that last confirmed it
	behind   time.Duration
	lost     bool
	called   bool // in this life
	calling  bool
	begun    time.Time // the last call
	tick     time.Time // when its tick began
	asked    []int     // by this tick
	next     int       // who is to be asked at once, or -1
	nextAt   time.Time
	must     bool         // it has to be
	reason   event.Reason // of its last tick
	was      event.Reason // before that
	maybe    bool         // the tick was perhaps for a probe alone, and is none
	failures [2]int       // at least and at most
	before   [2]int       // that, before its last tick
	waiting  bool

	told    event.Freshness
	event   *event.Event
	memos   []event.Circuit // came with told
	version uint64
	seq     [2]uint64 // of event and told
}

func newCrowd(t *testing.T, r *rand.Rand) *crowd {
	intervals := []time.Duration{100 * time.Millisecond, 250 * time.Millisecond, time.Second, 5 * time.Second, 12 * time.Second, time.Minute, 10 * time.Minute}
	w := &crowd{t: t, r: r, ill: rand.New(rand.NewPCG(r.Uint64(), 0))}
	c := config.Source{Upstreams: []string{"http://one", "http://two"}, Polls: map[string]config.Poll{}}
	base, n, longest := r.IntN(len(intervals)-1), 2+r.IntN(2), time.Duration(0)
	for i := range n {
		interval := intervals[base+r.IntN(2)]
		longest = max(longest, interval)
		// With a long age there are few renewals.
		maxAge := []time.Duration{3, 50}[r.IntN(2)] * interval
		c.Polls[string(rune('a'+i))] = config.Poll{Interval: interval, MaxAge: maxAge, Method: string(rune('a' + i)), Select: ".v"}
		w.polls = append(w.polls, &crowdPoll{crowd: w, index: i, next: -1})
	}
	c.Breaker = config.Breaker{Failures: 1 + r.IntN(6), OpenFor: max(longest, []time.Duration{time.Second, 20 * time.Second, 5 * time.Minute}[r.IntN(3)])}
	for _, name := range c.Upstreams {
		w.ups = append(w.ups, &crowdUpstream{name: name, mood: 1, rule: rule{failures: c.Breaker.Failures, openFor: c.Breaker.OpenFor, state: event.Closed}})
	}
	for name, p := range c.Polls {
		t.Logf("%s every %v", name, p.Interval)
	}
	t.Logf("%d failures, openFor %v", c.Breaker.Failures, c.Breaker.OpenFor)
	for range lives {
		s := newNamedStage(t, "crowds", c, w.answer)
		for i, p := range s.r.Polls {
			p.Schedule.Exact = true
			p.Schedule.Phase += time.Duration(i+1) * 7321 * time.Nanosecond // no two at once
		}
		s.onPut = w.read
		w.stages = append(w.stages, s)
	}
	return w
}

func (w *crowd) stage() *stage { return w.stages[w.life] }

// live is a walk through all lives.
func (w *crowd) live() {
	defer func() {
		w.stage().end()
		w.hush()
	}()
	w.begin(map[string]record.Recovered{})
	interval := time.Duration(0)
	for _, p := range w.stage().r.Polls {
		interval = max(interval, p.Config.Interval)
	}
	for n := 0; n < 150 && (w.life < lives-1 || w.r.IntN(8) > 0); n++ {
		switch n := w.r.IntN(20); {
		case n < 13:
			w.pass(time.Duration(w.r.Float64() * 5 * float64(interval)))
		case n < 17:
			u, mood := w.ups[w.r.IntN(len(w.ups))], []float64{1, .9, .5, .2, 0}[w.r.IntN(5)]
			w.mu.Lock()
			u.mood = mood
			w.mu.Unlock()
		case n < 18:
			w.mu.Lock()
			rule := w.ups[w.r.IntN(len(w.ups))].rule
			w.mu.Unlock()
			if rule.state == event.Open {
				w.pass(time.Until(rule.probe) + time.Duration(w.r.Int64N(int64(interval))))
			}
		case w.life < lives-1 && w.r.IntN(4) == 0:
			w.restart()
		}
	}
	w.end(true)
}

// pass lets time go by, and looks.
func (w *crowd) pass(d time.Duration) {
	if d <= 0 {
		return
	}
	time.Sleep(d)
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for i, u := range w.ups {
		c := w.stage().r.Upstreams.List[i].Circuit
		if have := c.Snapshot(); have.State != u.rule.state || have.Streak != u.rule.streak {
			w.t.Fatalf("%s is %s after %d failures, the rule says %s after %d", u.name, have.State, have.Streak, u.rule.state, u.rule.streak)
		}
		if open := c.HystrixOpen(); open != (u.rule.state != event.Closed) {
			w.t.Fatalf("%s: hystrix says open = %v, the rule %s", u.name, open, u.rule.state)
		}
		if have := w.stage().count(u.name); have != u.calls {
			w.t.Fatalf("%s was asked %d times, %d calls were let through", u.name, have, u.calls)
		}
	}
	w.look(now)
	for _, p := range w.polls {
		pc := w.stage().r.Polls[p.index].Config
		p.inTime(now)
		if since := clock.Later(clock.Later(w.open, w.from), p.begun); !w.open.IsZero() && now.Sub(since) > pc.Interval*11/10+pc.Timeout+config.MaxStart+soon {
			w.t.Fatalf("poll %d has not asked since %v, though an upstream may be asked", p.index, since.Sub(w.from))
		}
		if !p.called {
			continue
		}
		// While nobody may be asked, and until its next tick, a value is stale
		// that was not.
		excused := p.calling || p.told.Stale && (w.open.IsZero() || p.begun.Before(w.open))
		if stale := p.told.Stale; stale != (p.reason != "" || w.state() != event.Closed) && !p.maybe && !excused {
			w.t.Errorf("poll %d is told to be stale = %v (%s), its last tick %q, the source %s", p.index, stale, p.told.Reason, p.reason, w.state())
		}
	}
	// The first that is due is probed, whichever poll does it, and beside one that
	// answers not later than in a poll's own tick.
	for _, u := range w.ups {
		for _, p := range w.stage().r.Polls {
			if due := clock.Later(u.rule.probe, w.from); u.rule.state == event.Open && now.Sub(due) > p.Config.Interval*11/10+p.Config.Timeout+config.MaxStart+soon {
				w.t.Fatalf("no probe of %s, due %v ago", u.name, now.Sub(u.rule.probe))
			}
		}
	}
}

// look notes whether ordinary calls are let through.
func (w *crowd) look(now time.Time) {
	ok := slices.ContainsFunc(w.ups, func(u *crowdUpstream) bool {
		return u.rule.state == event.Closed && u.rule.lets(now) && !now.Before(u.rule.until)
	})
	switch {
	case !ok:
		w.open = time.Time{}
	case w.open.IsZero():
		w.open = now
	}
}

// state is the source's.
func (w *crowd) state() event.State {
	state := event.Open
	for _, u := range w.ups {
		switch u.rule.state {
		case event.Closed:
			return event.Closed
		case event.HalfOpen:
			state = event.HalfOpen
		}
	}
	return state
}

// first is who is to be asked of those that were not: with probes, first one
// whose probe is due; -1 for nobody. Late is by the times that are told, which
// are rounded up, by each owner anew, and by a clock that was set.
func (w *crowd) first(now time.Time, asked []int, probesFirst, late bool, not ...*crowdUpstream) int {
	find := func(state event.State) int {
		return slices.IndexFunc(w.ups, func(u *crowdUpstream) bool {
			lets := u.rule.lets(now)
			if rounded := now.Add(-time.Duration(5+w.life) * time.Millisecond); late && !slices.Contains(not, u) {
				lets = u.rule.lets(rounded) && (state == event.Open || !rounded.Before(u.rule.until))
			}
			return lets && u.rule.state == state && !slices.Contains(asked, slices.Index(w.ups, u))
		})
	}
	closed, probe := find(event.Closed), find(event.Open)
	if probe >= 0 && (probesFirst || closed < 0) {
		return probe
	}
	return closed
}

// inTime complains if an upstream was to be asked and was not.
func (p *crowdPoll) inTime(now time.Time) {
	if p.next < 0 || !now.After(p.nextAt) {
		return
	}
	if p.must {
		p.t.Errorf("poll %d did not ask %s when the other failed", p.index, p.ups[p.next].name)
	}
	p.next = -1
}

// answer is both upstreams.
func (w *crowd) answer(ctx context.Context, upstream, method string) (string, error) {
	w.mu.Lock()
	now := time.Now()
	p, i := w.polls[method[0]-'a'], slices.IndexFunc(w.ups, func(u *crowdUpstream) bool { return u.name == upstream })
	u, pc := w.ups[i], w.stage().r.Polls[method[0]-'a'].Config
	u.calls++
	w.look(now)
	fail := func(format string, args ...any) {
		w.t.Errorf("life %d, after %v: poll %d asks %s: %s; the rules say %s, %s", w.life, now.Sub(w.from), p.index, upstream, fmt.Sprintf(format, args...), w.ups[0].rule.state, w.ups[1].rule.state)
	}
	if !u.rule.lets(now) {
		fail("probe in %v, wait %v", u.rule.probe.Sub(now), u.rule.wait.Sub(now))
	}
	switch p.inTime(now); {
	case p.next >= 0:
		if i != p.next {
			fail("it was the turn of %s", w.ups[p.next].name)
		}
		p.failures, p.reason = p.before, p.was // its end decides
	default:
		p.asked, p.tick, p.was, p.maybe = nil, now, p.reason, false
		p.before = p.failures
		if want := w.first(now, nil, true, false); i != want && i != w.first(now, nil, true, true, u) && !w.turned.Equal(now) && !w.from.Equal(now) {
			fail("it was the turn of upstream %d", want)
		}
	}
	p.asked, p.next, p.begun, p.calling = append(p.asked, i), -1, now, true
	probe, before := u.rule.state == event.Open, u.rule.state
	turn := u.rule.begins()
	w.turn(u, before, now)

	k := kinds[0]
	if w.ill.Float64() >= u.mood {
		k = kinds[1+w.ill.IntN(len(kinds)-1)]
	}
	took := time.Millisecond + time.Duration(w.ill.Int64N(int64(pc.Timeout)*7/10))
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
		k = kinds[slices.IndexFunc(kinds, func(k kind) bool { return k.name == "timeout" })]
	}
	return p.finish(k, u, now, turn, probe)
}

// finish ends a call that began at sent.
func (p *crowdPoll) finish(k kind, u *crowdUpstream, sent time.Time, turn int, probe bool) (string, error) {
	w := p.crowd
	w.mu.Lock()
	defer w.mu.Unlock()
	now, pc := time.Now(), w.stage().r.Polls[p.index].Config
	retryAfter := time.Duration(0)
	if k.name == "retry after" {
		retryAfter = time.Duration(1+w.ill.IntN(90)) * time.Second
	}
	w.look(now)
	before := u.rule.state
	u.rule.ends(now, turn, k.reason == "" || k.innocent, retryAfter)
	w.turn(u, before, now)
	w.look(now)
	p.called, p.calling = true, false
	if k.reason == "" {
		p.reason, p.maybe, p.failures = "", false, [2]int{}
		if p.value == 0 || p.lost || w.ill.IntN(3) == 0 {
			p.value++
			p.lost = false
		}
		p.sent, p.behind = clock.Stamp(sent), 0
		return fmt.Sprintf(`{"v":"%d.%d"}`, p.index, p.value), nil
	}
	next, late := -1, -1
	if !k.innocent && p.tick.Add(pc.Timeout).Sub(now) >= config.MinTimeout {
		next, late = w.first(now, p.asked, false, false), w.first(now, p.asked, false, true)
	}
	// A tick that is for a probe alone asks nobody else, and says nothing of the
	// value while the other answers.
	only := probe && len(p.asked) == 1 && !k.innocent
	p.next, p.nextAt, p.must = next, now, next == late && !only
	if next >= 0 && p.must {
		p.calling = true
		return k.end(retryAfter)
	}
	p.reason = k.reason
	p.failures[1]++
	if p.maybe = next >= 0 || only && w.state() == event.Closed; !p.maybe {
		p.failures[0]++
	}
	return k.end(retryAfter)
}

func (w *crowd) turn(u *crowdUpstream, from event.State, now time.Time) {
	if u.rule.state != from {
		w.turned = now
		u.turns = append(u.turns, fmt.Sprint(from, ">", u.rule.state, " ", u.rule.streak))
	}
}

// told notes what the next owner can know of the circuits.
func (w *crowd) told() {
	for _, u := range w.ups {
		u.rule.told = time.Now()
		if u.known = u.rule; !u.known.until.After(time.Now()) {
			u.known.until = time.Time{}
		}
	}
}

// tellTurns publishes transitions.
func (w *crowd) tellTurns(s *stage, fence uint64, quiet <-chan struct{}) {
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
		memos := s.r.Upstreams.Memos()
		w.mu.Lock()
		b.Fence = fence
		w.breaker, w.memos = &b, memos
		w.told()
		if b.Cause != "probe was cut short" {
			u := w.ups[slices.IndexFunc(w.ups, func(u *crowdUpstream) bool { return u.name == b.Upstream })]
			u.told = append(u.told, fmt.Sprint(b.From, ">", b.To, " ", b.Failures))
		}
		w.mu.Unlock()
		s.r.queue.drop(b)
	}
}

// read is a client of the stream.
func (w *crowd) read(j record.Job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	p := w.polls[slices.IndexFunc(w.stage().r.Polls, func(p *poll.Poll) bool { return p.Topic == j.Topic })]
	if c := own(j); c != nil {
		e := c.Event
		if p.event != nil && string(e.Data) == string(p.event.Data) {
			w.t.Errorf("payload %s is sent again", e.Data)
		}
		if string(e.Data) != fmt.Sprintf(`"%d.%d"`, p.index, p.value) || !e.AsOf.Equal(p.sent) {
			w.t.Errorf("event %s as of %v; the truth is %d.%d, %v", e.Data, e.AsOf, p.index, p.value, p.sent)
		}
		if p.version++; c.Known.Version+1 != p.version {
			w.t.Errorf("version %d of poll %d, want %d", c.Known.Version+1, p.index, p.version)
		}
		stored := *e
		stored.Version = p.version
		p.event, p.seq[0] = &stored, p.seq[1]+1
	}
	f := j.Fresh
	if f == nil {
		return
	}
	fail := func(format string, args ...any) {
		data, _ := json.Marshal(f)
		w.t.Errorf("life %d, after %v: poll %d: %s; the record is %s, the rules say %s, %s", w.life, now.Sub(w.from), p.index, fmt.Sprintf(format, args...), data, w.ups[0].rule.state, w.ups[1].rule.state)
	}
	// When a circuit changes a record may tell either.
	due := slices.ContainsFunc(w.ups, func(u *crowdUpstream) bool { return u.rule.state == event.Open && u.rule.lets(now) })
	if f.Breaker != w.state() && !w.turned.Equal(now) && !(due && f.Breaker == event.HalfOpen) {
		fail("wrong breaker")
	}
	if f.Breaker == event.Open && !w.turned.Equal(now) {
		soonest := w.ups[0].rule.probe
		if other := w.ups[1].rule.probe; other.Before(soonest) {
			soonest = other
		}
		if off := f.NextProbeAt.Sub(soonest); off.Abs() > time.Duration(3+w.life)*time.Millisecond {
			fail("next probe is off by %v", off)
		}
	}
	if f.Stale != (f.Reason != "") {
		fail("stale and reason disagree")
	}
	if n := f.ConsecutiveFailures; n < p.failures[0] || n > p.failures[1] {
		fail("want %d failures", p.failures)
	} else if p.next < 0 {
		p.failures = [2]int{n, n}
	}
	if reasons := p.reasons(); !slices.Contains(reasons, f.Reason) {
		fail("want one of the reasons %q", reasons)
	}
	if !f.AsOf.Equal(p.sent) && p.behind == 0 || f.AsOf.After(p.sent.Add(p.behind)) {
		fail("want as of %v", p.sent)
	}
	w.told()
	p.told, p.memos, p.seq[1] = *f, j.Circuits, max(p.seq[0], p.seq[1])+1
}

// reasons are those that a record may give now.
func (p *crowdPoll) reasons() []event.Reason {
	all := []event.Reason{p.reason}
	if p.maybe || p.next >= 0 {
		all = append(all, p.was, p.told.Reason)
	}
	if p.state() != event.Closed || p.turned.Equal(time.Now()) {
		all = append(all, event.BreakerOpen)
	}
	if !p.called || p.calling || p.open.IsZero() || p.begun.Before(p.open) { // it waits for its own tick
		all = append(all, p.told.Reason)
	}
	if !p.called {
		all = append(all, event.PollerSilent)
		if p.told.Reason == event.BreakerOpen { // which it is not any more
			all = append(all, event.UpstreamError)
		}
	}
	// In every tick until then, whatever it was before.
	now := time.Now()
	if p.waiting || slices.ContainsFunc(p.ups, func(u *crowdUpstream) bool { return now.Before(u.rule.until.Add(2 * time.Millisecond)) }) {
		all = append(all, event.UpstreamError)
	}
	return all
}
