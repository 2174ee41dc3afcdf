package runner

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/source"
)

// script decides what upstreams do, by their names.
type script struct {
	mu sync.Mutex
	do map[string]func(ctx context.Context) (string, error)
}

func (s *script) set(name string, do func(context.Context) (string, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.do == nil {
		s.do = map[string]func(context.Context) (string, error){}
	}
	s.do[name] = do
}

func (s *script) answer(ctx context.Context, upstream, _ string) (string, error) {
	s.mu.Lock()
	do := s.do[upstream]
	s.mu.Unlock()
	if do == nil {
		return `"` + upstream + `"`, nil
	}
	return do(ctx)
}

func fails(context.Context) (string, error) { return "", errFake }

func hangs(ctx context.Context) (string, error) {
	start := time.Now()
	<-ctx.Done()
	if ctx.Err() == context.Canceled {
		return "", ctx.Err()
	}
	return "", &source.Failure{Reason: event.Timeout, Detail: "no answer within " + time.Since(start).String(), Counts: true}
}

func slow(d time.Duration, value string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		select {
		case <-time.After(d):
			return value, nil
		case <-ctx.Done():
			return hangs(ctx)
		}
	}
}

func rejects(context.Context) (string, error) {
	return "", &source.Failure{Reason: event.RequestRejected, Detail: "HTTP 404 Not Found"}
}

// one poll "a" every 10 s, with 8 s for its calls.
func slowSource(upstreams ...string) config.Source {
	return config.Source{
		Upstreams: upstreams, Breaker: config.Breaker{Failures: 5, OpenFor: 5 * time.Minute},
		Polls: map[string]config.Poll{"a": {Interval: 10 * time.Second, Timeout: 8 * time.Second, Method: "a"}},
	}
}

// play runs a source in a bubble.
func play(t *testing.T, c config.Source, run func(s *stage, up *script)) {
	t.Helper()
	up := &script{}
	s := newStage(t, c, up.answer)
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.start()
		defer s.end()
		time.Sleep(time.Second) // the first tick
		run(s, up)
	})
}

// tick waits until the poll's next tick is over, and returns the calls that it
// made, as "one+0s two+4s".
func (s *stage) tick() string {
	s.Helper()
	p := s.r.Polls[0]
	synctest.Wait() // a tick of this very moment is one before
	before, made := p.Status().LastAt, map[string]int{}
	s.mu.Lock()
	for name, calls := range s.calls {
		made[name] = len(calls)
	}
	s.mu.Unlock()
	for limit := time.Now().Add(2 * p.Config.Interval); !p.Status().LastAt.After(before); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			s.Fatal("no tick within two intervals")
		}
	}
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	type call struct {
		name string
		at   time.Time
	}
	var calls []call
	for _, u := range s.r.Upstreams.List {
		for _, at := range s.calls[u.Name][made[u.Name]:] {
			calls = append(calls, call{strings.TrimPrefix(u.Name, "http://"), at})
		}
	}
	for i := range calls { // by time, and otherwise as the upstreams are listed
		for k := i; k > 0 && calls[k].at.Before(calls[k-1].at); k-- {
			calls[k], calls[k-1] = calls[k-1], calls[k]
		}
	}
	var parts []string
	for _, c := range calls {
		parts = append(parts, fmt.Sprintf("%s+%v", c.name, c.at.Sub(calls[0].at).Round(10*time.Millisecond)))
	}
	return strings.Join(parts, " ")
}

func (s *stage) wantTick(when, want string) {
	s.Helper()
	if have := s.tick(); have != want {
		s.Fatalf("%s: calls %q, want %q", when, have, want)
	}
}

// The next upstream is asked in the same tick, the value never goes stale, and
// the first is asked again when it is well.
func TestFailOver(t *testing.T) {
	c := slowSource("http://one", "http://two")
	c.Polls["a"] = config.Poll{Interval: 10 * time.Second, Timeout: 8 * time.Second, Method: "a", Emit: config.EmitAlways}
	play(t, c, func(s *stage, up *script) {
		s.wantTick("healthy", "one+0s")
		up.set("http://one", fails)
		for range 5 {
			s.wantTick("the first fails", "one+0s two+0s")
		}
		s.wantTick("its circuit is open", "two+0s")
		s.wantLast("on the second", 0, false, "", event.Closed, 0)
		events, fresh := s.said()
		if e := events[len(events)-1]; e.Upstream != "http://two" || string(e.Data) != `"http://two"` {
			t.Errorf("event of the second: %+v", e)
		}
		for _, f := range fresh {
			if f.Stale {
				t.Errorf("a record says stale: %+v", f)
			}
		}
		up.set("http://one", nil)
		time.Sleep(5 * time.Minute)
		s.wantTick("back on the first", "one+0s")
		if events, _ := s.said(); events[len(events)-1].Upstream != "http://one" {
			t.Errorf("event of the first: %+v", events[len(events)-1])
		}
	})
}

// Upstreams that hang leave time for the others.
func TestFailOverBudget(t *testing.T) {
	play(t, slowSource("http://one", "http://two", "http://three"), func(s *stage, up *script) {
		up.set("http://one", hangs)
		s.wantTick("one hangs", "one+0s two+2.67s")
		s.wantLast("one hangs", 0, false, "", event.Closed, 0)
		up.set("http://two", hangs)
		s.wantTick("two hang", "one+0s two+2.67s three+5.33s")
		s.wantLast("two hang", 0, false, "", event.Closed, 0)
		up.set("http://two", fails)
		up.set("http://three", slow(5*time.Second, "1"))
		s.wantTick("what is left is the last one's", "one+0s two+2.67s three+2.67s")
		s.wantLast("what is left is the last one's", 0, false, "", event.Closed, 0)
		up.set("http://three", hangs)
		s.wantTick("all fail", "one+0s two+2.67s three+2.67s")
		s.wantLast("all fail", 0, true, event.Timeout, event.Closed, 1)
		want := "http://one: no answer within 2.666666666s; http://two: HTTP 503 Service Unavailable; http://three: no answer within 5.333333334s"
		if have := s.last(0).Detail; have != want {
			t.Errorf("detail %q, want %q", have, want)
		}
	})
}

func TestAttemptTimeout(t *testing.T) {
	c := slowSource("http://one", "http://two")
	c.AttemptTimeout = 6 * time.Second
	play(t, c, func(s *stage, up *script) {
		up.set("http://one", hangs)
		s.wantTick("the first has its time", "one+0s two+6s")
		up.set("http://two", hangs)
		for range 4 {
			s.wantTick("the second has the rest", "one+0s two+6s")
		}
		s.wantTick("and then all", "two+0s")
		s.wantLast("both are open", 0, true, event.Timeout, event.Open, 5)
	})
}

// A wrong request is wrong everywhere, and is so again at once.
func TestRejectedEndsTick(t *testing.T) {
	c := slowSource("http://one", "http://two")
	c.Retries = 2
	play(t, c, func(s *stage, up *script) {
		up.set("http://one", rejects)
		for range 7 {
			s.wantTick("rejected", "one+0s")
		}
		s.wantLast("rejected", 0, true, event.RequestRejected, event.Closed, 7)
	})
}

// However often a tick asks, it makes one failure, or one success.
func TestRetries(t *testing.T) {
	c := slowSource("http://one")
	c.Retries = 2
	play(t, c, func(s *stage, up *script) {
		n := 0
		up.set("http://one", func(ctx context.Context) (string, error) {
			if n++; n%3 != 0 {
				return "", errFake
			}
			return "1", nil
		})
		calls := s.count("http://one")
		for range 8 {
			s.tick()
		}
		if have := s.count("http://one") - calls; have != 24 {
			t.Fatalf("%d calls in 8 ticks, want 24", have)
		}
		s.wantLast("every third call is good", 0, false, "", event.Closed, 0)

		up.set("http://one", fails)
		calls = s.count("http://one")
		for i := range 5 {
			from := time.Now()
			s.tick()
			s.wantLast("all fail", 0, true, event.UpstreamError, []event.State{event.Closed, event.Open}[i/4], i+1)
			at := s.when("http://one")
			at = at[len(at)-3:]
			first, second := at[1].Sub(at[0]), at[2].Sub(at[1])
			if at[0].Before(from) || first < 50*time.Millisecond || first > 100*time.Millisecond || second < 100*time.Millisecond || second > 200*time.Millisecond {
				t.Fatalf("pauses %v and %v, want 50 to 100 ms and 100 to 200 ms", first, second)
			}
		}
		if have := s.count("http://one") - calls; have != 15 {
			t.Fatalf("%d calls until open, want 15", have)
		}
		probe := s.last(0).NextProbeAt
		time.Sleep(time.Until(probe) + time.Second)
		if have := s.count("http://one") - calls; have != 16 {
			t.Fatalf("%d calls after the probe, want one more than 15", have)
		}
	})
}

// All upstreams come before any of them comes again.
func TestRetriesAfterFailOver(t *testing.T) {
	c := slowSource("http://one", "http://two")
	c.Retries = 1
	play(t, c, func(s *stage, up *script) {
		n := 0
		up.set("http://one", func(context.Context) (string, error) {
			if n++; n%2 == 1 {
				return "", errFake
			}
			return "1", nil
		})
		up.set("http://two", fails)
		for range 4 {
			if have := s.tick(); !strings.HasPrefix(have, "one+0s two+0s one+") {
				t.Fatalf("calls %q, want one, two, and one again", have)
			}
		}
		one, two := s.r.Upstreams.List[0].Circuit.Snapshot(), s.r.Upstreams.List[1].Circuit.Snapshot()
		if one.Streak != 0 || two.Streak != 4 {
			t.Errorf("streaks %d and %d, want 0 and 4", one.Streak, two.Streak)
		}
	})
}

// Retries never go beyond the tick's time, and wait for as long as the upstream
// asks, if that is within it.
func TestRetriesBounded(t *testing.T) {
	c := slowSource("http://one")
	c.Retries = 2
	play(t, c, func(s *stage, up *script) {
		up.set("http://one", hangs)
		from := time.Now()
		s.tick()
		at := s.when("http://one")
		if took := s.r.Polls[0].Status().LastTookMs; took < 7990 || took > 8001 || len(at) < 3 || at[len(at)-3].Before(from) {
			t.Errorf("a tick that hangs took %v ms, want 3 calls within 8000", took)
		}
		busy := func(d time.Duration) func(context.Context) (string, error) {
			return func(context.Context) (string, error) {
				return "", &source.Failure{Reason: event.UpstreamError, Detail: "HTTP 429", Counts: true, RetryAfter: d}
			}
		}
		up.set("http://one", busy(3*time.Second))
		s.wantTick("Retry-After within the tick", "one+0s one+3s one+6s")
		up.set("http://one", nil)
		s.tick()
		up.set("http://one", busy(20*time.Second))
		s.wantTick("Retry-After beyond it", "one+0s")
		s.wantLast("Retry-After beyond it", 0, true, event.UpstreamError, event.Closed, 1)
	})
}

// The second is asked beside a slow first, the first good answer wins, and the
// other is cancelled and counts as nothing.
func TestHedge(t *testing.T) {
	c := slowSource("http://one", "http://two")
	c.Hedge = 200 * time.Millisecond
	c.Polls["a"] = config.Poll{Interval: 10 * time.Second, Timeout: 8 * time.Second, Method: "a", Emit: config.EmitAlways}
	play(t, c, func(s *stage, up *script) {
		streaks := func() [2]int {
			return [2]int{s.r.Upstreams.List[0].Circuit.Snapshot().Streak, s.r.Upstreams.List[1].Circuit.Snapshot().Streak}
		}
		last := func() event.Event { e, _ := s.said(); return e[len(e)-1] }
		s.wantTick("fast enough", "one+0s")
		up.set("http://one", slow(300*time.Millisecond, `"late"`))
		up.set("http://two", slow(50*time.Millisecond, `"early"`))
		for range 7 {
			s.wantTick("the second is faster", "one+0s two+200ms")
		}
		if e := last(); string(e.Data) != `"early"` || e.Upstream != "http://two" || streaks() != [2]int{} {
			t.Errorf("the second is faster: %+v, streaks %v", e, streaks())
		}
		events, _ := s.said()
		time.Sleep(2 * time.Second)
		if now, _ := s.said(); len(now) != len(events) {
			t.Errorf("the late answer made an event: %+v", now[len(now)-1])
		}

		up.set("http://two", slow(150*time.Millisecond, `"later"`))
		s.wantTick("the first is faster after all", "one+0s two+200ms")
		if e := last(); string(e.Data) != `"late"` || e.Upstream != "http://one" {
			t.Errorf("the first is faster: %+v", e)
		}
		up.set("http://two", fails)
		s.wantTick("the second fails", "one+0s two+200ms")
		if e := last(); string(e.Data) != `"late"` || streaks() != [2]int{0, 1} {
			t.Errorf("the second fails: %+v, streaks %v", e, streaks())
		}
		up.set("http://two", rejects)
		s.wantTick("the second rejects", "one+0s two+200ms")
		s.wantLast("the second rejects", 0, false, "", event.Closed, 0)
		up.set("http://one", hangs)
		up.set("http://two", hangs)
		s.wantTick("both hang", "one+0s two+200ms")
		s.wantLast("both hang", 0, true, event.Timeout, event.Closed, 1)
		if streaks() != [2]int{1, 1} {
			t.Errorf("both hang: streaks %v", streaks())
		}
	})
}

// A probe that fails costs its tick nothing, since another upstream answers.
func TestProbeBesideClosed(t *testing.T) {
	play(t, slowSource("http://one", "http://two"), func(s *stage, up *script) {
		up.set("http://one", hangs)
		for range 6 {
			s.tick()
		}
		time.Sleep(30 * time.Minute)
		st := s.r.Polls[0].Status()
		if have := s.count("http://one"); have < 1+5+5 || have > 1+5+6 {
			t.Errorf("%d calls to the one that hangs, want the first, 5 failures and a probe every 5 minutes", have)
		}
		if age := time.Since(st.AsOf); st.Stale || age > 12*time.Second {
			t.Errorf("the value is %v old: %+v", age, st)
		}
		_, fresh := s.said()
		for _, f := range fresh {
			if f.Stale {
				t.Fatalf("a record says stale: %+v", f)
			}
		}
	})
}

// What comes on top of the regular pace is held back by the quota.
func TestQuota(t *testing.T) {
	c := slowSource("http://one")
	c.MaxCallsPerMinute, c.Retries = 18, 2
	play(t, c, func(s *stage, up *script) {
		up.set("http://one", fails)
		time.Sleep(4 * time.Minute)
		at := s.when("http://one")
		for i := range at {
			n := 0
			for _, other := range at[i:] {
				if other.Sub(at[i]) < 59*time.Second {
					n++
				}
			}
			if n > 18 {
				t.Fatalf("%d calls in a minute, want at most 18", n)
			}
		}
		if len(at) < 15 {
			t.Errorf("%d calls in all, want 5 ticks of 3", len(at))
		}
	})
	c = slowSource("http://one", "http://two")
	c.MaxCallsPerMinute = 6
	c.Polls["b"] = config.Poll{Interval: 20 * time.Second, Method: "b"} // beyond what Check lets pass
	t.Run("beyond", func(t *testing.T) {
		play(t, c, func(s *stage, up *script) {
			time.Sleep(10 * time.Minute)
			if one, two := s.count("http://one"), s.count("http://two"); one > 62 || two < 20 || one+two < 88 {
				t.Errorf("%d and %d calls in 10 minutes, want 6 a minute and the other 3 elsewhere", one, two)
			}
		})
		c.Upstreams = c.Upstreams[:1]
	})
	t.Run("alone", func(t *testing.T) {
		play(t, c, func(s *stage, up *script) {
			time.Sleep(10 * time.Minute)
			a, b := s.r.Polls[0].Status(), s.r.Polls[1].Status()
			if one := s.count("http://one"); one > 62 || a.Skipped+b.Skipped < 20 {
				t.Errorf("%d calls and %d skipped ticks in 10 minutes, want 60 and 30", one, a.Skipped+b.Skipped)
			}
		})
	})
}
