package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestStandstill stops a poller for longer than its calls may take, during some
// of them. The upstream did not fail: its circuit stays closed.
func TestStandstill(t *testing.T) {
	t.Parallel()
	const polls = 40
	var mu sync.Mutex
	calls, waiting := map[string]int{}, 0
	hold, free := false, make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		calls[r.URL.Path]++
		held := hold
		if held {
			waiting++
		}
		mu.Unlock()
		if held {
			<-free
		}
		_, _ = fmt.Fprint(w, `1`)
	}))
	t.Cleanup(up.Close)
	var text strings.Builder
	for i := range polls {
		_, _ = fmt.Fprintf(&text, "        p%d: {path: /p%d, interval: 5s, timeout: 4s}\n", i, i)
	}
	s := newStack(t, fmt.Sprintf("    s:\n      driver: http\n      upstreams: [%q]\n      polls:\n%s", up.URL,
		text.String()))
	s.nats.start()
	p := s.poller("nats.leaseTime=30s")
	asked := func(want int) func() error {
		return func() error {
			mu.Lock()
			defer mu.Unlock()
			for i := range polls {
				if n := calls[fmt.Sprintf("/p%d", i)]; n < want {
					return fmt.Errorf("poll %d was asked %d times", i, n)
				}
			}
			return nil
		}
	}
	eventually(t, "every poll is asked", asked(1))
	mu.Lock()
	hold = true
	mu.Unlock()
	eventually(t, "calls are under way", func() error {
		mu.Lock()
		defer mu.Unlock()
		if waiting < 8 {
			return errors.New("too few")
		}
		return nil
	})
	p.signal(syscall.SIGSTOP)
	time.Sleep(4500 * time.Millisecond)
	mu.Lock()
	hold = false
	before := map[string]int{}
	for path, n := range calls {
		before[path] = n
	}
	mu.Unlock()
	p.signal(syscall.SIGCONT)
	eventually(t, "the standstill is noticed", func() error {
		if !strings.Contains(p.logs(), "this process stood still") {
			return errors.New("no line in the log")
		}
		return nil
	})
	close(free)
	eventually(t, "every poll is asked on", func() error {
		mu.Lock()
		defer mu.Unlock()
		for path, n := range before {
			if calls[path] < n+2 {
				return fmt.Errorf("%s was asked %d times more", path, calls[path]-n)
			}
		}
		return nil
	})
	if logs := p.logs(); strings.Contains(logs, "breaker opened") || strings.Contains(logs, "value is stale") {
		t.Errorf("the upstream is blamed:\n%s", tail(logs, 20))
	}
	_, body, err := get("http://" + p.ops + "/metrics")
	if err != nil || !strings.Contains(string(body), "pollcast_poller_standstill_seconds_total 4.") {
		t.Errorf("the metric does not show the standstill: %v\n%s", err, body)
	}
}
