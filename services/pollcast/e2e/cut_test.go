package e2e

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestLeaseHolderCutOff cuts the poller that holds a source's lease off from
// NATS, once by a network that delivers everything late, once by one that breaks
// connections. Another poller takes over within two lease times. The first one
// stops asking the upstream by itself, and none of its records is stored later.
func TestLeaseHolderCutOff(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		cut  func(*proxy)
	}{{"held back", (*proxy).hold}, {"severed", (*proxy).sever}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			book := newCallbook(t)
			s := newStack(t, sourceYAML("cut", "http://"+book.addr+"/", "value"))
			s.nats.start()
			line := newProxy(t, s.nats.addr)
			first := s.poller("nats.url=nats://" + line.addr)
			first.ready()
			eventually(t, "the first poller owns the source", func() error {
				if !first.owns() {
					return errors.New("it does not")
				}
				return nil
			})
			second, gateway := s.poller(), s.gateway()
			second.ready()
			gateway.ready()
			viewer := dial(t, gateway.addr, "/v1/ws?topics=>")
			viewer.await("values of the first", liveEvent("cut.value"))

			viewer.skip()
			at := time.Now()
			tt.cut(line)
			eventually(t, "the second poller owns the source", func() error {
				if !second.owns() {
					return errors.New("it does not")
				}
				return nil
			})
			if took := time.Since(at); took > 2*leaseTime {
				t.Errorf("the second poller took over after %v, want two lease times of %v at most", took, leaseTime)
			}
			viewer.skip()
			viewer.await("values of the second", liveEvent("cut.value"))
			if first.owns() {
				t.Error("the first poller still takes itself for the owner")
			}
			from := time.Now()
			const interval = 200 * time.Millisecond
			eventually(t, "the second poller asks for a lease time", func() error {
				if n := len(callsAfter(book.of("m"), from)); n < int(leaseTime/interval) {
					return fmt.Errorf("%d calls", n)
				}
				return nil
			})
			if calls := callsAfter(book.of("m"), from); len(calls) > int(time.Since(from)/interval)+2 {
				t.Errorf("%d calls in %v: both pollers ask", len(calls), time.Since(from))
			}
			line.let()
			eventually(t, "the first poller is back", func() error {
				if !strings.Contains(first.logs(), "lease lost, polling stopped") {
					return errors.New("it has not noticed that it lost the lease")
				}
				return nil
			})
			first.ready()
			viewer.skip()
			viewer.await("values of the second go on", liveEvent("cut.value"))
			if first.owns() || !second.owns() {
				t.Error("the source went back")
			}

			// After a clean stop at most one poll is late.
			stopped := time.Now()
			if code := second.end(syscall.SIGTERM); code != 0 {
				t.Errorf("exit code %d", code)
			}
			eventually(t, "the first poller goes on", func() error {
				if len(callsAfter(book.of("m"), stopped)) == 0 || !first.owns() {
					return errors.New("it does not")
				}
				return nil
			})
			if took := time.Since(stopped); took > leaseTime/2 {
				t.Errorf("a clean stop handed over after %v; the lease time is %v", took, leaseTime)
			}
			if code := first.end(syscall.SIGTERM); code != 0 {
				t.Errorf("exit code %d", code)
			}
			record := readStream(t, s.nats)["cut.value"] // fails if a fenced poller's record was stored
			for i, e := range record.events {
				if e.version != uint64(i+1) {
					t.Fatalf("event %d has version %d", i+1, e.version)
				}
			}
			if len(record.fences) < 3 {
				t.Errorf("%d owners, want 3 or more", len(record.fences))
			}
		})
	}
}

// callsAfter returns the calls after a time.
func callsAfter(calls []time.Time, from time.Time) (out []time.Time) {
	for _, c := range calls {
		if c.After(from) {
			out = append(out, c)
		}
	}
	return out
}
