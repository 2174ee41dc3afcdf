package poller

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
)

// What Feasibility calls the worst case is never exceeded by real runs on the
// virtual clock, and is not far from the worst of them.
func TestFeasibility(t *testing.T) {
	for _, tt := range []struct {
		name string
		s    Source
	}{
		{"one poll", Source{
			Breaker: Breaker{Failures: 5, OpenFor: time.Minute},
			Polls:   map[string]Poll{"a": {Interval: 3 * time.Second, Timeout: 2 * time.Second, Method: "a"}},
		}},
		{"slow poll", Source{
			Breaker: Breaker{Failures: 2, OpenFor: 20 * time.Minute},
			Polls:   map[string]Poll{"a": {Interval: 10 * time.Minute, Method: "a"}},
		}},
		{"three polls", Source{
			Breaker: Breaker{Failures: 5, OpenFor: time.Minute},
			Polls: map[string]Poll{
				"a": {Interval: time.Second, Timeout: 500 * time.Millisecond, Method: "a"},
				"b": {Interval: 4 * time.Second, Method: "b"},
				"c": {Interval: 5 * time.Minute, Method: "c"},
			},
		}},
		{"retries", Source{
			Breaker: Breaker{Failures: 5, OpenFor: time.Minute}, Retries: 3,
			Polls: map[string]Poll{"a": {Interval: 3 * time.Second, Timeout: 2 * time.Second, Method: "a"}},
		}},
		{"fail-over", Source{
			Upstreams: []string{"http://one", "http://two", "http://three"},
			Breaker:   Breaker{Failures: 4, OpenFor: time.Minute}, Retries: 1,
			Polls: map[string]Poll{"a": {Interval: 3 * time.Second, Timeout: 2 * time.Second, Method: "a"}},
		}},
		{"attempts", Source{
			Upstreams: []string{"http://one", "http://two"}, AttemptTimeout: 500 * time.Millisecond,
			Breaker: Breaker{Failures: 5, OpenFor: time.Minute},
			Polls:   map[string]Poll{"a": {Interval: 3 * time.Second, Timeout: 2 * time.Second, Method: "a"}},
		}},
		{"long attempts", Source{
			Upstreams: []string{"http://one", "http://two", "http://three"}, AttemptTimeout: time.Second,
			Breaker: Breaker{Failures: 5, OpenFor: time.Minute},
			Polls:   map[string]Poll{"a": {Interval: 3 * time.Second, Timeout: 2 * time.Second, Method: "a"}},
		}},
		{"hedge", Source{
			Upstreams: []string{"http://one", "http://two"}, Hedge: 200 * time.Millisecond,
			Breaker: Breaker{Failures: 5, OpenFor: time.Minute},
			Polls:   map[string]Poll{"a": {Interval: 3 * time.Second, Timeout: 2 * time.Second, Method: "a"}},
		}},
		{"all of it", Source{
			Upstreams: []string{"http://one", "http://two"}, Hedge: 100 * time.Millisecond, Retries: 2,
			Breaker: Breaker{Failures: 5, OpenFor: time.Minute},
			Polls: map[string]Poll{
				"a": {Interval: time.Second, Method: "a"}, "b": {Interval: 2 * time.Second, Method: "b"}, "c": {Interval: 90 * time.Second, Method: "c"},
			},
		}},
		{"two upstreams", Source{
			Upstreams: []string{"http://one", "http://two"},
			Breaker:   Breaker{Failures: 3, OpenFor: time.Minute},
			Polls: map[string]Poll{
				"a": {Interval: time.Second, Method: "a"}, "b": {Interval: 2 * time.Second, Method: "b"},
			},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { runFeasibility(t, tt.s) })
	}
}

func runFeasibility(t *testing.T, c Source) {
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
	timings := Feasibility(Config{Sources: map[string]Source{s.r.name: s.r.config}})
	set := func(d bool) { mu.Lock(); dead = d; mu.Unlock() }
	worst := make([]PollTiming, len(timings))
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
					if b, _, _ := s.r.upstreams.breaker(); opened.IsZero() && b != event.Closed {
						opened = time.Now()
						worst[i].Open = max(worst[i].Open, opened.Sub(died))
					}
					if time.Since(died) > 2*(w.Stale+w.Open)+time.Hour {
						t.Fatal("neither stale nor open")
					}
				}
				time.Sleep(step)
			}
			probes := s.r.upstreams.probes.Load()
			wait("a probe", timings[0].Probe, func() bool { return s.r.upstreams.probes.Load() > probes })
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
	if st := s.r.polls[i].look(); st != nil {
		return st.AsOf
	}
	return time.Time{}
}

func TestWriteFeasibility(t *testing.T) {
	var b strings.Builder
	err := WriteFeasibility(&b, Config{Sources: map[string]Source{
		"host": {Upstreams: []string{"http://127.0.0.1:12090/"}, Polls: map[string]Poll{"system.status": {Method: "m"}}},
		"btc": {Upstreams: []string{"https://one"}, Retries: 2, MaxCallsPerMinute: 20, Polls: map[string]Poll{
			"fees": {Method: "m", Interval: 10 * time.Second},
		}},
		"eth": {Hedge: time.Second, Upstreams: []string{"https://one/v3/0123456789abcdef", "https://two/"}, Polls: map[string]Poll{
			"head": {Method: "m", Interval: 2 * time.Second}, "gas": {Method: "m", Interval: time.Hour},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := `
POLL                INTERVAL  TIMEOUT  ATTEMPTS   STALE WITHIN  OPEN WITHIN  PROBE AFTER  RECOVERED WITHIN  POLLER DEAD  CALLS/MIN
btc.fees            10s       8s       3 x 2.56s  18.1s         58.1s        5m1s         5m17s             30s          6.0
eth.gas             1h        10s      2 x 5s     1h0m11s       11.7s        5m1s         1h0m11s           3h           0.017
eth.head            2s        1.6s     2 x 800ms  3.64s         11.7s        5m1s         5m23s             6s           30
host.system.status  5s        4s       1          9.1s          29.1s        5m1s         5m9s              15s          12

SOURCE  UPSTREAM                CALLS/MIN  AT MOST  QUOTA  WHILE OPEN
btc     https://one             6.0        18       20     0.2
eth     https://one             30         31       none   0.2
eth     https://two             30         31       none   0.2         only while those before it are out or slow
host    http://127.0.0.1:12090  12         12       none   0.2
`
	if have := "\n" + b.String(); have != want {
		t.Errorf("have%s\nwant%s", have, want)
	}
	if err := WriteFeasibility(failing{}, Config{Sources: map[string]Source{"a": {}}}); err == nil {
		t.Error("no error of the writer")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, fmt.Errorf("disk full") }
