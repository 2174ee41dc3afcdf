package breaker

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
)

// bench drives one circuit and records its transitions.
type bench struct {
	*testing.T
	c           *Circuit
	calls       int // that the circuit let through
	transitions []string
}

// newBench must be called outside a synctest bubble: the goroutines that hystrix starts
// for a circuit never end.
func newBench(t *testing.T, rule Rule) *bench {
	bn := &bench{T: t}
	c, err := New(t.Name(), "http://x", rule, func(tr event.Breaker) {
		bn.transitions = append(bn.transitions, fmt.Sprintf("%s>%s %s", tr.From, tr.To, tr.Cause))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Free)
	bn.c = c
	return bn
}

// poll makes one call that ends at once.
func (b *bench) poll(v Verdict) bool {
	p, err := b.c.Begin()
	if err != nil {
		return false
	}
	b.calls++
	b.c.End(p, v, false, "HTTP 503")
	return true
}

func (b *bench) wantState(when string, want event.State, calls int) {
	b.Helper()
	if have := b.c.Snapshot().State; have != want {
		b.Fatalf("%s: state is %s, want %s", when, have, want)
	}
	if open := b.c.HystrixOpen(); open != (want != event.Closed) {
		b.Fatalf("%s: hystrix open = %v while the circuit is %s", when, open, want)
	}
	if b.calls != calls {
		b.Fatalf("%s: %d calls reached the upstream, want %d", when, b.calls, calls)
	}
}

// TestCircuit checks the rule of Circuit with polls at several intervals.
func TestCircuit(t *testing.T) {
	t.Parallel()
	for _, interval := range []time.Duration{250 * time.Millisecond, 3 * time.Second, 12 * time.Second, time.Hour} {
		t.Run(interval.String(), func(t *testing.T) {
			const openFor = 5 * time.Minute
			b := newBench(t, Rule{Failures: 5, OpenFor: openFor})
			synctest.Test(t, func(t *testing.T) {
				b.T = t
				polls := func(n int, v Verdict) {
					for range n {
						b.poll(v)
						time.Sleep(interval)
					}
				}
				polls(30, Success)
				polls(4, Failure)
				polls(1, Success)
				polls(4, Failure)
				b.wantState("4 failures, success, 4 failures", event.Closed, 39)
				polls(1, Success)

				polls(4, Failure)
				b.wantState("4 failures", event.Closed, 44)
				b.poll(Failure)
				opened := time.Now()
				b.wantState("5 failures", event.Open, 45)
				for range 20 {
					time.Sleep(openFor / 21)
					b.poll(Success)
				}
				b.wantState("20 polls while open", event.Open, 45)

				due := b.c.Snapshot().ProbeAt
				if have := due.Sub(opened); have != openFor+ProbeMargin {
					t.Fatalf("probe is due %v after opening, want %v", have, openFor+ProbeMargin)
				}
				time.Sleep(time.Until(due) - 1)
				b.poll(Success)
				b.wantState("1 ns before the probe", event.Open, 45)
				time.Sleep(time.Nanosecond)
				b.poll(Failure)
				b.wantState("probe failed", event.Open, 46)
				b.poll(Success)
				time.Sleep(openFor)
				b.poll(Success)
				b.wantState("second period", event.Open, 46)
				time.Sleep(ProbeMargin)
				b.poll(Success)
				b.wantState("probe succeeded", event.Closed, 47)
				polls(4, Failure)
				b.wantState("4 failures after recovery", event.Closed, 51)
			})
			want := []string{
				"closed>open HTTP 503", "open>half_open probe", "half_open>open HTTP 503",
				"open>half_open probe", "half_open>closed recovered",
			}
			if !slices.Equal(b.transitions, want) {
				t.Errorf("transitions are %q, want %q", b.transitions, want)
			}
		})
	}
}

// TestCircuitLateEnd checks that a call that began before the circuit opened, and ends
// after that, changes nothing: calls of several polls overlap.
func TestCircuitLateEnd(t *testing.T) {
	t.Parallel()
	b := newBench(t, Rule{Failures: 2, OpenFor: time.Minute})
	synctest.Test(t, func(t *testing.T) {
		b.T = t
		early, err := b.c.Begin()
		if err != nil {
			t.Fatal(err)
		}
		other, _ := b.c.Begin()
		b.poll(Failure)
		b.poll(Failure)
		b.wantState("2 failures", event.Open, 2)
		b.c.End(early, Success, false, "")
		b.wantState("late success", event.Open, 2)

		time.Sleep(time.Minute + ProbeMargin)
		probe, err := b.c.Begin()
		if err != nil || !probe.Probe {
			t.Fatalf("no probe when it is due: %+v, %v", probe, err)
		}
		if _, err := b.c.Begin(); err == nil {
			t.Fatal("a second call beside the probe")
		}
		b.c.End(other, Failure, true, "late")
		b.wantState("late failure during the probe", event.HalfOpen, 2)
		b.c.End(probe, Abandoned, false, "")
		b.wantState("abandoned probe", event.Open, 2)
		b.poll(Success)
		b.wantState("the next call is the probe", event.Closed, 3)
	})
}

func TestCircuitExactlyOneProbe(t *testing.T) {
	t.Parallel()
	b := newBench(t, Rule{Failures: 1, OpenFor: time.Second})
	synctest.Test(t, func(t *testing.T) {
		b.T = t
		b.poll(Failure)
		time.Sleep(time.Second + ProbeMargin)
		var wg sync.WaitGroup
		permits := make(chan Permit, 100)
		for range 100 {
			wg.Go(func() {
				if p, err := b.c.Begin(); err == nil {
					permits <- p
				}
			})
		}
		wg.Wait()
		if len(permits) != 1 {
			t.Fatalf("%d of 100 were let through, want 1", len(permits))
		}
	})
}

func TestCircuitRetryAfter(t *testing.T) {
	t.Parallel()
	b := newBench(t, Rule{Failures: 2, OpenFor: time.Minute})
	synctest.Test(t, func(t *testing.T) {
		b.T = t
		fail := func(after time.Duration) {
			t.Helper()
			p, err := b.c.Begin()
			if err != nil {
				t.Fatal(err)
			}
			b.c.HoldOff(after)
			b.c.End(p, Failure, false, "HTTP 429")
		}
		fail(30 * time.Second)
		if _, err := b.c.Begin(); err != ErrWait {
			t.Fatalf("begin after Retry-After: %v, want %v", err, ErrWait)
		}
		time.Sleep(30 * time.Second)
		fail(2 * time.Minute)
		if have := time.Until(b.c.Snapshot().ProbeAt); have != 2*time.Minute {
			t.Fatalf("the probe is in %v, want what the upstream asked for", have)
		}
		time.Sleep(2 * time.Minute)
		fail(time.Hour)
		if have := time.Until(b.c.Snapshot().ProbeAt); have != maxRetryAfter {
			t.Fatalf("the probe is in %v, want the bound %v", have, maxRetryAfter)
		}
	})
}

func TestCircuitRestore(t *testing.T) {
	t.Parallel()
	b := newBench(t, Rule{Failures: 5, OpenFor: 5 * time.Minute})
	synctest.Test(t, func(t *testing.T) {
		b.T = t
		now := time.Now()
		open := event.Breaker{
			Source: "s", Upstream: "http://x", From: event.Closed, To: event.Open, Cause: "HTTP 500",
			Failures: 5, At: now.Add(-time.Minute), NextProbeAt: now.Add(2 * time.Minute),
		}
		other := open
		other.Upstream = "http://elsewhere"
		b.c.Restore(nil)
		b.c.Restore(&other)
		b.wantState("another upstream's record", event.Closed, 0)
		b.c.Restore(&open)
		b.wantState("restored", event.Open, 0)
		time.Sleep(2*time.Minute - 1)
		b.poll(Success)
		b.wantState("before the probe", event.Open, 0)
		time.Sleep(ProbeMargin + time.Nanosecond)
		b.poll(Success)
		b.wantState("probe", event.Closed, 1)
		b.c.Restore(&open)
		b.wantState("an old record", event.Closed, 1)
		open.At, open.To = time.Now().Add(time.Second), event.HalfOpen
		b.c.Restore(&open)
		b.wantState("a probe that never ended", event.Open, 1)
		b.poll(Failure)
		b.wantState("its successor fails", event.Open, 2)
		if have := b.c.Snapshot().Streak; have != 6 {
			t.Errorf("streak is %d, want 6", have)
		}
	})
}

// TestCircuitNames checks that a process has no more circuits than it ever had at the
// same time.
func TestCircuitNames(t *testing.T) {
	t.Parallel()
	newPair := func() (a, b *Circuit) {
		a, errA := New(t.Name(), "u", Rule{Failures: 1, OpenFor: time.Hour}, func(event.Breaker) {})
		b, errB := New(t.Name(), "u", Rule{Failures: 1, OpenFor: time.Hour}, func(event.Breaker) {})
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		return a, b
	}
	a, b := newPair()
	p, _ := a.Begin()
	a.End(p, Failure, false, "x")
	if a.gate.hystrix == b.gate.hystrix || !a.HystrixOpen() || b.HystrixOpen() {
		t.Fatal("two circuits are one")
	}
	a.Free()
	b.Free()
	c, d := newPair()
	defer c.Free()
	defer d.Free()
	if c.gate.hystrix != a.gate.hystrix || c.HystrixOpen() {
		t.Errorf("same circuit: %v, open: %v; want the old one, closed", c.gate.hystrix == a.gate.hystrix, c.HystrixOpen())
	}
}
