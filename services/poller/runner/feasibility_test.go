package runner

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/source"
)

// What Feasibility calls the worst case is never exceeded by real runs on the
// virtual clock, and is not far from the worst of them.
func TestFeasibility(t *testing.T) {
	for _, tt := range []struct {
		name string
		s    config.Source
	}{
		{"one poll", config.Source{
			Breaker: config.Breaker{Failures: 5, OpenFor: time.Minute},
			Polls:   map[string]config.Poll{"a": {Interval: 3 * time.Second, Timeout: 2 * time.Second, Method: "a"}},
		}},
		{"slow poll", config.Source{
			Breaker: config.Breaker{Failures: 2, OpenFor: 20 * time.Minute},
			Polls:   map[string]config.Poll{"a": {Interval: 10 * time.Minute, Method: "a"}},
		}},
		{"three polls", config.Source{
			Breaker: config.Breaker{Failures: 5, OpenFor: time.Minute},
			Polls: map[string]config.Poll{
				"a": {Interval: time.Second, Timeout: 500 * time.Millisecond, Method: "a"},
				"b": {Interval: 4 * time.Second, Method: "b"},
				"c": {Interval: 5 * time.Minute, Method: "c"},
			},
		}},
		{"retries", config.Source{
			Breaker: config.Breaker{Failures: 5, OpenFor: time.Minute}, Retries: 3,
			Polls: map[string]config.Poll{"a": {Interval: 3 * time.Second, Timeout: 2 * time.Second, Method: "a"}},
		}},
		{"fail-over", config.Source{
			Upstreams: []string{"http://one", "http://two", "http://three"},
			Breaker:   config.Breaker{Failures: 4, OpenFor: time.Minute}, Retries: 1,
			Polls: map[string]config.Poll{"a": {Interval: 3 * time.Second, Timeout: 2 * time.Second, Method: "a"}},
		}},
		{"attempts", config.Source{
			Upstreams: []string{"http://one", "http://two"}, AttemptTimeout: 500 * time.Millisecond,
			Breaker: config.Breaker{Failures: 5, OpenFor: time.Minute},
			Polls:   map[string]config.Poll{"a": {Interval: 3 * time.Second, Timeout: 2 * time.Second, Method: "a"}},
		}},
		{"long attempts", config.Source{
			Upstreams: []string{"http://one", "http://two", "http://three"}, AttemptTimeout: time.Second,
			Breaker: config.Breaker{Failures: 5, OpenFor: time.Minute},
			Polls:   map[string]config.Poll{"a": {Interval: 3 * time.Second, Timeout: 2 * time.Second, Method: "a"}},
		}},
		{"hedge", config.Source{
			Upstreams: []string{"http://one", "http://two"}, Hedge: 200 * time.Millisecond,
			Breaker: config.Breaker{Failures: 5, OpenFor: time.Minute},
			Polls:   map[string]config.Poll{"a": {Interval: 3 * time.Second, Timeout: 2 * time.Second, Method: "a"}},
		}},
		{"all of it", config.Source{
			Upstreams: []string{"http://one", "http://two"}, Hedge: 100 * time.Millisecond, Retries: 2,
			Breaker: config.Breaker{Failures: 5, OpenFor: time.Minute},
			Polls: map[string]config.Poll{
				"a": {Interval: time.Second, Method: "a"}, "b": {Interval: 2 * time.Second, Method: "b"}, "c": {Interval: 90 * time.Second, Method: "c"},
			},
		}},
		{"two upstreams", config.Source{
			Upstreams: []string{"http://one", "http://two"},
			Breaker:   config.Breaker{Failures: 3, OpenFor: time.Minute},
			Polls: map[string]config.Poll{
				"a": {Interval: time.Second, Method: "a"}, "b": {Interval: 2 * time.Second, Method: "b"},
			},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { runFeasibility(t, tt.s) })
	}
}

func runFeasibility(t *testing.T, c config.Source) {
	var mu sync.Mutex
	dead := false
	s := newStage(t, c, func(ctx context.Context, _, _ string) (string, error) {
		mu.Lock()
		hang := dead
		mu.Unlock()
		if !hang {
			return "1", nil
		}
		<-ctx.Done()
		return "", &source.Failure{Reason: event.Timeout, Detail: "no answer", Counts: true}
	})
	timings := config.Feasibility(config.Config{Sources: map[string]config.Source{s.r.Name: s.r.config}})
	set := func(d bool) { mu.Lock(); dead = d; mu.Unlock() }
	worst := make([]config.PollTiming, len(timings))
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.start()
		defer s.end()
		state := func(i int) event.Freshness { return s.last(i) }
		const step = 10 * time.Millisecond
		wait := func(what string, atMost time.Duration, done func() bool) time.Duration {
			t.Helper()
			begin := time.Now()
			for !done() {
				time.Sleep(step)
				if time.Since(begin) > 2*atMost+time.Minute {
					t.Fatalf("never: %s", what)
				}
			}
			return time.Since(begin)
		}
		allFresh := func() bool {
			for i := range timings {
				if f := state(i); f.Poll == "" || f.Stale {
					return false
				}
			}
			return true
		}
		time.Sleep(2 * timings[len(timings)-1].Interval)
		for round := range 12 {
			wait("all fresh", timings[0].Recovered+time.Hour, allFresh)
			// Round by round another poll has just been asked.
			index := round % len(timings)
			before := s.asOf(index)
			wait("a poll is asked", timings[index].Interval, func() bool { return s.asOf(index).After(before) })

			set(true)
			died := time.Now()
			var opened time.Time
			pending := len(timings)
			stale := make([]bool, len(timings))
			for pending > 0 || opened.IsZero() {
				for i, w := range timings {
					if !stale[i] && state(i).Stale {
						stale[i] = true
						pending--
						worst[i].Stale = max(worst[i].Stale, time.Since(died))
					}
					if b, _, _ := s.r.Upstreams.State(); opened.IsZero() && b != event.Closed {
						opened = time.Now()
						worst[i].Open = max(worst[i].Open, opened.Sub(died))
					}
					if time.Since(died) > 2*(w.Stale+w.Open)+time.Hour {
						t.Fatal("neither stale nor open")
					}
				}
				time.Sleep(step)
			}
			probes := s.r.Upstreams.Probes.Load()
			wait("a probe", timings[0].Probe, func() bool { return s.r.Upstreams.Probes.Load() > probes })
			if len(c.Upstreams) < 2 { // otherwise the probes of several
				worst[0].Probe = max(worst[0].Probe, time.Since(opened))
			}

			set(false) // just after the probe began, which hangs on
			well := time.Now()
			fresh := make([]bool, len(timings))
			for pending = len(timings); pending > 0; time.Sleep(step) {
				for i := range timings {
					if !fresh[i] && !state(i).Stale {
						fresh[i] = true
						pending--
						worst[i].Recovered = max(worst[i].Recovered, time.Since(well))
					}
				}
				if time.Since(well) > 5*timings[0].Recovered+time.Hour {
					t.Fatal("never recovered")
				}
			}
		}
	})
	for i, want := range timings {
		have := worst[i]
		if i > 0 {
			have.Open, have.Probe = worst[0].Open, worst[0].Probe
		}
		for _, c := range []struct {
			what       string
			have, want time.Duration
			near       bool
		}{
			{"stale", have.Stale, want.Stale, len(timings) == 1},
			{"open", have.Open, want.Open, len(timings) == 1},
			{"probe", have.Probe, want.Probe, have.Probe > 0},
			{"recovered", have.Recovered, want.Recovered, len(timings) == 1},
		} {
			const slack = 30 * time.Millisecond // steps of this test
			if c.have > c.want+slack {
				t.Errorf("%s %s: %v in a run, %v at worst by the table", want.Poll, c.what, c.have, c.want)
			}
			if c.near && c.have < c.want*7/10 {
				t.Errorf("%s %s: %v at worst in 12 runs, %v by the table, which is far from it", want.Poll, c.what, c.have, c.want)
			}
		}
	}
}

// asOf is that of the poll, of which only the goroutine of its own knows: taken
// from its status.
func (s *stage) asOf(i int) time.Time {
	if st := s.r.Polls[i].Status(); st != nil {
		return st.AsOf
	}
	return time.Time{}
}
