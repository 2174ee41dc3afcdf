package runner

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/lease"
	"github.com/pollcast/pollcast/services/poller/record"
	"github.com/pollcast/pollcast/services/poller/source"
)

// stage runs the polls of one source against made-up upstreams and a made-up
// stream, on synctest's clock.
type stage struct {
	*testing.T
	r *Runner

	mu     sync.Mutex
	calls  map[string][]time.Time // by upstream's name
	flying map[string]int         // by upstream and method
	events []event.Event
	fresh  []event.Freshness
	logs   strings.Builder
	down   bool // the stream
	onPut  func(record.Job)
	record.Places
	stop context.CancelFunc
	cut  context.CancelFunc
	wg   sync.WaitGroup
}

var errFake = &source.Failure{Reason: event.UpstreamError, Detail: "HTTP 503 Service Unavailable", Counts: true}

// newStage must be called outside the bubble. answer is what every upstream
// does.
func newStage(t *testing.T, c config.Source, answer func(ctx context.Context, upstream, method string) (string, error)) *stage {
	t.Helper()
	return newNamedStage(t, strings.ReplaceAll(t.Name(), "/", "-"), c, answer)
}

func newNamedStage(t *testing.T, name string, c config.Source, answer func(ctx context.Context, upstream, method string) (string, error)) *stage {
	t.Helper()
	s := &stage{T: t, calls: map[string][]time.Time{}, flying: map[string]int{}}
	if len(c.Upstreams) == 0 {
		c.Upstreams = []string{"http://one"}
	}
	log := slog.New(slog.NewTextHandler(&lockedWriter{s: s}, nil))
	var err error
	if s.r, err = New(name, c, log, log.With("source", name), NewMetrics()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.r.Close)
	for _, u := range s.r.Upstreams.List {
		u.Call = func(ctx context.Context, c source.Call) (json.RawMessage, error) {
			s.mu.Lock()
			s.calls[u.Name] = append(s.calls[u.Name], time.Now())
			if s.flying[u.Name+c.Method]++; s.flying[u.Name+c.Method] > 1 {
				t.Errorf("poll %s overlaps itself", c.Method)
			}
			s.mu.Unlock()
			defer func() {
				s.mu.Lock()
				s.flying[u.Name+c.Method]--
				s.mu.Unlock()
			}()
			v, err := answer(ctx, u.Name, c.Method)
			return json.RawMessage(v), err
		}
	}
	s.r.to = s
	return s
}

type lockedWriter struct{ s *stage }

func (w *lockedWriter) Write(b []byte) (int, error) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return w.s.logs.Write(b)
}

var errStream = errors.New("no responders")

func (s *stage) Put(_ context.Context, j record.Job) (record.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := j.Known
	if s.down {
		return st, errStream
	}
	if j.Fresh != nil {
		j.Fresh.Fence = j.Tenure.Fence
	}
	if s.onPut != nil {
		s.onPut(j)
	}
	st.Sync = record.Synced // nobody else is there
	for _, c := range j.Changes {
		c.Known.Version++
		c.Known.Digest, c.Known.Slot, c.Known.Has = c.Digest, c.Slot, !c.Event.Deleted
		e := *c.Event
		e.Version = c.Known.Version
		s.events = append(s.events, e)
	}
	if j.Fresh != nil {
		st.Fresh, st.Circuits = j.Fresh, j.Circuits
		s.fresh = append(s.fresh, *j.Fresh)
	}
	return st, nil
}

func (s *stage) MaxPayload(int) int64 { return 1 << 20 }

func (s *stage) ReadBack(context.Context, string, uint64, func(*event.Event)) error { return errStream }

// own is the change of the poll's own topic; nil: there is none.
func own(j record.Job) *record.Change {
	for _, c := range j.Changes {
		if c.Token == record.OwnTopic {
			return c
		}
	}
	return nil
}

// start begins a tenure, in the bubble.
func (s *stage) start() { s.startFrom(7, nil, bus.Message{}) }

// startFrom begins it with what an earlier one left.
func (s *stage) startFrom(fence uint64, left map[string]record.Recovered, breaker bus.Message) {
	t := &lease.Tenure{Fence: fence, Start: time.Now()}
	t.Renewed(t.Start, 1000*time.Hour)
	stop, cancel := context.WithCancel(context.Background())
	hard, cut := context.WithCancel(context.Background())
	s.stop, s.cut = cancel, cut
	s.r.restoreCircuits(left, breaker)
	for _, p := range s.r.Polls {
		p.Resume(left[p.Topic])
	}
	s.wg.Go(func() { s.r.runPolls(stop, hard, t) })
}

func (s *stage) end() {
	s.stop()
	s.wg.Wait()
	s.cut()
}

func (s *stage) count(upstream string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls[upstream])
}

// said is all that was published so far.
func (s *stage) said() ([]event.Event, []event.Freshness) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events), slices.Clone(s.fresh)
}

func (s *stage) when(upstream string) []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls[upstream])
}

// last is the newest freshness record of a poll.
func (s *stage) last(i int) event.Freshness {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := len(s.fresh) - 1; k >= 0; k-- {
		if s.fresh[k].Poll == s.r.Polls[i].Topic {
			return s.fresh[k]
		}
	}
	return event.Freshness{}
}

func (s *stage) wantLast(when string, i int, stale bool, reason event.Reason, breaker event.State, failures int) {
	s.Helper()
	f := s.last(i)
	if f.Stale != stale || f.Reason != reason || f.Breaker != breaker || f.ConsecutiveFailures != failures {
		s.Fatalf("%s: record says stale=%v reason=%q breaker=%s failures=%d, want %v %q %s %d", when,
			f.Stale, f.Reason, f.Breaker, f.ConsecutiveFailures, stale, reason, breaker, failures)
	}
}

// The seed behaviour, poll by poll, at intervals below and above the 10 s
// window of hystrix.
func TestPollWalk(t *testing.T) {
	for _, interval := range []time.Duration{250 * time.Millisecond, 3 * time.Second, 12 * time.Second} {
		t.Run(interval.String(), func(t *testing.T) {
			const openFor = 5 * time.Minute
			var mu sync.Mutex
			failing := false
			set := func(f bool) { mu.Lock(); failing = f; mu.Unlock() }
			s := newStage(t, config.Source{
				Breaker: config.Breaker{Failures: 5, OpenFor: openFor},
				Polls:   map[string]config.Poll{"a": {Interval: interval, Method: "a"}},
			}, func(context.Context, string, string) (string, error) {
				mu.Lock()
				defer mu.Unlock()
				if failing {
					return "", errFake
				}
				return `{"v":1}`, nil
			})
			synctest.Test(t, func(t *testing.T) {
				s.T = t
				s.start()
				defer s.end()
				ticks := func(n int) {
					t.Helper()
					want := s.count("http://one") + n
					for limit := time.Now().Add(time.Duration(n+1) * interval); s.count("http://one") < want; {
						time.Sleep(interval / 200)
						if time.Now().After(limit) {
							t.Fatalf("no %d polls within %d intervals", n, n+1)
						}
					}
					synctest.Wait()
				}
				ticks(20)
				s.wantLast("healthy", 0, false, "", event.Closed, 0)

				set(true)
				ticks(1)
				s.wantLast("one failure", 0, true, event.UpstreamError, event.Closed, 1)
				asOf := s.last(0).AsOf
				set(false)
				ticks(1)
				s.wantLast("one failure, then success", 0, false, "", event.Closed, 0)
				if !s.last(0).AsOf.After(asOf) {
					t.Error("asOf did not move with the confirmation")
				}

				asOf = s.last(0).AsOf
				set(true)
				ticks(4)
				s.wantLast("four failures", 0, true, event.UpstreamError, event.Closed, 4)
				ticks(1)
				opened := time.Now()
				s.wantLast("five failures", 0, true, event.UpstreamError, event.Open, 5)
				before := s.count("http://one")
				time.Sleep(interval + interval/10)
				s.wantLast("a tick later", 0, true, event.BreakerOpen, event.Open, 5)
				if f := s.last(0); !f.AsOf.Equal(asOf) || f.NextProbeAt.Sub(opened).Abs() > openFor+interval/100 {
					t.Errorf("asOf %v, want %v; next probe %v after opening", f.AsOf, asOf, f.NextProbeAt.Sub(opened))
				}
				probe := s.last(0).NextProbeAt
				time.Sleep(time.Until(probe) - 2*time.Millisecond)
				if have := s.count("http://one"); have != before {
					t.Fatalf("%d calls while open, want none", have-before)
				}
				time.Sleep(10 * time.Millisecond)
				if have := s.count("http://one"); have != before+1 {
					t.Fatalf("%d calls when the probe was due, want 1", have-before)
				}
				if f := s.last(0); f.Reason == event.BreakerOpen { // its own slot came right after
					s.wantLast("probe failed", 0, true, event.BreakerOpen, event.Open, 6)
				} else {
					s.wantLast("probe failed", 0, true, event.UpstreamError, event.Open, 6)
				}
				set(false)
				time.Sleep(openFor - 20*time.Millisecond)
				if have := s.count("http://one"); have != before+1 {
					t.Fatalf("%d calls in the second period, want none", have-before-1)
				}
				time.Sleep(30 * time.Millisecond)
				s.wantLast("probe succeeded", 0, false, "", event.Closed, 0)
				if events, _ := s.said(); len(events) != 1 {
					t.Errorf("%d events for a value that never changed, want 1", len(events))
				}
			})
			if n := strings.Count(s.logs.String(), "value is stale"); n != 2 {
				t.Errorf("%d lines about staleness, want 2:\n%s", n, s.logs.String())
			}
		})
	}
}

// Several polls of one source: one probe, and all are told, the slow one too.
func TestPollsShareBreaker(t *testing.T) {
	var mu sync.Mutex
	failing := false
	set := func(f bool) { mu.Lock(); failing = f; mu.Unlock() }
	s := newStage(t, config.Source{
		Breaker: config.Breaker{Failures: 5, OpenFor: time.Minute},
		Polls: map[string]config.Poll{
			"a": {Interval: time.Second, Method: "a"}, "b": {Interval: 700 * time.Millisecond, Method: "b"},
			"c": {Interval: time.Hour, Method: "c"},
		},
	}, func(context.Context, string, string) (string, error) {
		time.Sleep(50 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		if failing {
			return "", errFake
		}
		return `1`, nil
	})
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.start()
		defer s.end()
		time.Sleep(10 * time.Second)
		set(true)
		time.Sleep(10 * time.Second)
		if have := s.last(2); !have.Stale || have.Reason != event.BreakerOpen || have.Breaker != event.Open || have.ConsecutiveFailures != 0 {
			t.Fatalf("the slow poll says %+v", have)
		}
		before := s.count("http://one")
		probe := s.last(0).NextProbeAt
		time.Sleep(time.Until(probe) + 10*time.Second)
		if have := s.count("http://one") - before; have != 1 {
			t.Fatalf("%d probes, want 1", have)
		}
		set(false)
		time.Sleep(time.Until(s.last(0).NextProbeAt) + config.MaxStart + 200*time.Millisecond)
		for i := range s.r.Polls {
			s.wantLast("recovered", i, false, "", event.Closed, 0)
		}
	})
}

// A method that fails for itself must not be the one that probes every time.
func TestProbeTakesTurns(t *testing.T) {
	s := newStage(t, config.Source{
		Breaker: config.Breaker{Failures: 2, OpenFor: 10 * time.Second},
		Polls: map[string]config.Poll{
			"a": {Interval: time.Second, Method: "bad"}, "b": {Interval: 10 * time.Second, Method: "good"},
		},
	}, func(_ context.Context, _, method string) (string, error) {
		if method == "bad" {
			return "", errFake
		}
		return `1`, nil
	})
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.start()
		defer s.end()
		fresh := 0
		for range 60 {
			time.Sleep(time.Second)
			if f := s.last(1); !f.Stale && f.Poll != "" {
				fresh++
			}
		}
		if fresh == 0 {
			t.Error("the good poll was never fresh")
		}
	})
}

func TestPollSchedule(t *testing.T) {
	hang := make(chan time.Duration, 1)
	s := newStage(t, config.Source{Polls: map[string]config.Poll{"a": {Interval: time.Second, Method: "a"}}},
		func(context.Context, string, string) (string, error) {
			select {
			case d := <-hang:
				time.Sleep(d) // deaf to its context
			default:
			}
			return `1`, nil
		})
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		begin := time.Now()
		s.start()
		defer s.end()
		time.Sleep(20 * time.Second)
		p := s.r.Polls[0]
		calls := s.when("http://one")
		if first := calls[0].Sub(begin); first > config.MaxStart {
			t.Errorf("first poll after %v", first)
		}
		for _, at := range calls[1:] {
			if late := time.Duration(at.UnixNano()-int64(p.Schedule.Phase)) % time.Second; late > 20*time.Millisecond {
				t.Errorf("poll at %v is %v after its slot", at, late)
			}
		}
		if n := len(calls); n < 20 || n > 21 {
			t.Errorf("%d polls in 20 s", n)
		}
		hang <- 3500 * time.Millisecond
		time.Sleep(10 * time.Second)
		if st := p.Status(); st.Skipped != 3 {
			t.Errorf("%d ticks skipped, want 3", st.Skipped)
		}
		if n := s.count("http://one"); n < 27 || n > 28 {
			t.Errorf("%d polls in 30 s of which 3.5 were lost", n)
		}
	})
}
