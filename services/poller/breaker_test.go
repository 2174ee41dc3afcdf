package poller

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
	c     *circuit
	calls int // let through
	turns []string
}

// newBench must be called outside a synctest bubble: hystrix's goroutines of a
// circuit never end.
func newBench(t *testing.T, b Rule) *bench {
	bn := &bench{T: t}
	c, err := newCircuit(t.Name(), "http://x", b, func(tr event.Breaker) {
		bn.turns = append(bn.turns, fmt.Sprintf("%s>%s %s", tr.From, tr.To, tr.Cause))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.free)
	bn.c = c
	return bn
}

// poll makes one call that ends at once.
func (b *bench) poll(v verdict) bool {
	p, err := b.c.begin()
	if err != nil {
		return false
	}
	b.calls++
	b.c.end(p, v, false, "HTTP 503")
	return true
}

func (b *bench) wantState(when string, want event.State, calls int) {
	b.Helper()
	if have := b.c.look().state; have != want {
		b.Fatalf("%s: state is %s, want %s", when, have, want)
	}
	if open := b.c.hystrix.IsOpen(); open != (want != event.Closed) {
		b.Fatalf("%s: hystrix open = %v while we say %s", when, open, want)
	}
	if b.calls != calls {
		b.Fatalf("%s: %d calls reached the upstream, want %d", when, b.calls, calls)
	}
}

func TestCircuit(t *testing.T) {
	for _, interval := range []time.Duration{250 * time.Millisecond, 3 * time.Second, 12 * time.Second, time.Hour} {
		t.Run(interval.String(), func(t *testing.T) {
			const openFor = 5 * time.Minute
			b := newBench(t, Rule{Failures: 5, OpenFor: openFor})
			synctest.Test(t, func(t *testing.T) {
				b.T = t
				polls := func(n int, v verdict) {
					for range n {
						b.poll(v)
						time.Sleep(interval)
					}
				}
				polls(30, success)
				polls(4, failure)
				polls(1, success)
				polls(4, failure)
				b.wantState("4 failures, success, 4 failures", event.Closed, 39)
				polls(1, success)

				polls(4, failure)
				b.wantState("4 failures", event.Closed, 44)
				b.poll(failure)
				opened := time.Now()
				b.wantState("5 failures", event.Open, 45)
				for range 20 {
					time.Sleep(openFor / 21)
					b.poll(success)
				}
				b.wantState("20 polls while open", event.Open, 45)

				due := b.c.look().probeAt
				if have := due.Sub(opened); have != openFor+probeMargin {
					t.Fatalf("probe is due %v after opening, want %v", have, openFor+probeMargin)
				}
				time.Sleep(time.Until(due) - 1)
				b.poll(success)
				b.wantState("1 ns before the probe", event.Open, 45)
				time.Sleep(time.Nanosecond)
				b.poll(failure)
				b.wantState("probe failed", event.Open, 46)
				b.poll(success)
				time.Sleep(openFor)
				b.poll(success)
				b.wantState("second period", event.Open, 46)
				time.Sleep(probeMargin)
				b.poll(success)
				b.wantState("probe succeeded", event.Closed, 47)
				polls(4, failure)
				b.wantState("4 failures after recovery", event.Closed, 51)
			})
			want := []string{
				"closed>open HTTP 503", "open>half_open probe", "half_open>open HTTP 503",
				"open>half_open probe", "half_open>closed recovered",
			}
			if !slices.Equal(b.turns, want) {
				t.Errorf("transitions are %q, want %q", b.turns, want)
			}
		})
	}
}

// Calls of several polls overlap: those that began before the circuit opened
// end later and must change nothing.
func TestCircuitLateEnd(t *testing.T) {
	b := newBench(t, Rule{Failures: 2, OpenFor: time.Minute})
	synctest.Test(t, func(t *testing.T) {
		b.T = t
		early, err := b.c.begin()
		if err != nil {
			t.Fatal(err)
		}
		other, _ := b.c.begin()
		b.poll(failure)
		b.poll(failure)
		b.wantState("2 failures", event.Open, 2)
		b.c.end(early, success, false, "")
		b.wantState("late success", event.Open, 2)

		time.Sleep(time.Minute + probeMargin)
		probe, err := b.c.begin()
		if err != nil || !probe.probe {
			t.Fatalf("no probe when it is due: %+v, %v", probe, err)
		}
		if _, err := b.c.begin(); err == nil {
			t.Fatal("a second call beside the probe")
		}
		b.c.end(other, failure, true, "late")
		b.wantState("late failure during the probe", event.HalfOpen, 2)
		b.c.end(probe, abandoned, false, "")
		b.wantState("abandoned probe", event.Open, 2)
		b.poll(success)
		b.wantState("the next call is the probe", event.Closed, 3)
	})
}

func TestCircuitExactlyOneProbe(t *testing.T) {
	b := newBench(t, Rule{Failures: 1, OpenFor: time.Second})
	synctest.Test(t, func(t *testing.T) {
		b.T = t
		b.poll(failure)
		time.Sleep(time.Second + probeMargin)
		var wg sync.WaitGroup
		permits := make(chan permit, 100)
		for range 100 {
			wg.Go(func() {
				if p, err := b.c.begin(); err == nil {
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
	b := newBench(t, Rule{Failures: 2, OpenFor: time.Minute})
	synctest.Test(t, func(t *testing.T) {
		b.T = t
		fail := func(after time.Duration) {
			t.Helper()
			p, err := b.c.begin()
			if err != nil {
				t.Fatal(err)
			}
			b.c.wait(after)
			b.c.end(p, failure, false, "HTTP 429")
		}
		fail(30 * time.Second)
		if _, err := b.c.begin(); err != errWait {
			t.Fatalf("begin after Retry-After: %v, want %v", err, errWait)
		}
		time.Sleep(30 * time.Second)
		fail(2 * time.Minute)
		if have := time.Until(b.c.look().probeAt); have != 2*time.Minute {
			t.Fatalf("the probe is in %v, want what the upstream asked for", have)
		}
		time.Sleep(2 * time.Minute)
		fail(time.Hour)
		if have := time.Until(b.c.look().probeAt); have != maxRetryAfter {
			t.Fatalf("the probe is in %v, want the bound %v", have, maxRetryAfter)
		}
	})
}

func TestCircuitRestore(t *testing.T) {
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
		b.c.restore(nil)
		b.c.restore(&other)
		b.wantState("another upstream's record", event.Closed, 0)
		b.c.restore(&open)
		b.wantState("restored", event.Open, 0)
		time.Sleep(2*time.Minute - 1)
		b.poll(success)
		b.wantState("before the probe", event.Open, 0)
		time.Sleep(probeMargin + time.Nanosecond)
		b.poll(success)
		b.wantState("probe", event.Closed, 1)
		b.c.restore(&open)
		b.wantState("an old record", event.Closed, 1)
		open.At, open.To = time.Now().Add(time.Second), event.HalfOpen
		b.c.restore(&open)
		b.wantState("a probe that never ended", event.Open, 1)
		b.poll(failure)
		b.wantState("its successor fails", event.Open, 2)
		if have := b.c.look().streak; have != 6 {
			t.Errorf("streak is %d, want 6", have)
		}
	})
}

// A process has as many circuits as it ever had at once.
func TestCircuitNames(t *testing.T) {
	make2 := func() (a, b *circuit) {
		a, errA := newCircuit(t.Name(), "u", Rule{Failures: 1, OpenFor: time.Hour}, func(event.Breaker) {})
		b, errB := newCircuit(t.Name(), "u", Rule{Failures: 1, OpenFor: time.Hour}, func(event.Breaker) {})
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		return a, b
	}
	a, b := make2()
	p, _ := a.begin()
	a.end(p, failure, false, "x")
	if a.hystrix == b.hystrix || !a.hystrix.IsOpen() || b.hystrix.IsOpen() {
		t.Fatal("two circuits are one")
	}
	a.free()
	b.free()
	c, d := make2()
	defer c.free()
	defer d.free()
	if c.hystrix != a.hystrix || c.hystrix.IsOpen() {
		t.Errorf("same circuit: %v, open: %v; want the old one, closed", c.hystrix == a.hystrix, c.hystrix.IsOpen())
	}
}
