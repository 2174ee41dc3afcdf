package poller

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/pollertest"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// asked is an upstream that remembers when which method was called.
type asked struct {
	*httptest.Server
	mu    sync.Mutex
	calls map[string][]time.Time
}

func newAsked(t *testing.T) *asked {
	u := &asked{calls: map[string][]time.Time{}}
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			ID     int
			Method string
		}
		_ = json.NewDecoder(r.Body).Decode(&q)
		u.mu.Lock()
		u.calls[q.Method] = append(u.calls[q.Method], time.Now())
		n := len(u.calls[q.Method])
		u.mu.Unlock()
		_, _ = io.WriteString(w, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"result":%d}`, q.ID, n))
	}))
	t.Cleanup(u.Close)
	return u
}

// since returns the slots of the calls from a moment on, by method. Each method
// is a source with the poll status.
func (u *asked) since(from time.Time, interval time.Duration) map[string][]int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := map[string][]int64{}
	for method, calls := range u.calls {
		s := config.NewSchedule(method+".status", interval)
		for _, at := range calls {
			if at.After(from) {
				out[method] = append(out[method], s.Next(at).UnixNano()/int64(interval))
			}
		}
	}
	return out
}

// shares are how many sources each poller owns, most first.
func shares(pollers ...*running) (all []int) {
	for _, p := range pollers {
		n := 0
		for _, r := range p.sources.list() {
			if r.Owned() {
				n++
			}
		}
		all = append(all, n)
	}
	slices.Sort(all)
	slices.Reverse(all)
	return all
}

// moved counts what happened to leases, in all pollers together.
func moved(change string, pollers ...*running) (n int) {
	for _, p := range pollers {
		for _, r := range p.sources.list() {
			n += int(testutil.ToFloat64(p.metrics.runner.LeaseChanges.WithLabelValues(r.name, change)))
		}
	}
	return n
}

// Twelve sources spread over the pollers that come, and over those that are
// left when one dies; each move is felt as one late poll at most.
func TestShares(t *testing.T) {
	// A machine that stands still for longer than a lease time takes leases away
	// like a bug would. The bug does it every time.
	const tries = 3
	for try := 1; !sharesOf12(t); try++ {
		if try == tries {
			t.Fatalf("leases were lost, %d times of %d", try, tries)
		}
	}
}

// sharesOf12 is false when leases were lost where none should be, after which
// nothing else can be held against the rules.
func sharesOf12(t *testing.T) bool {
	t.Helper()
	const interval = 500 * time.Millisecond
	s, u := bustest.Start(t), newAsked(t)
	b := s.Config()
	b.LeaseTime = 2 * time.Second
	var names []string
	for i := range 12 {
		names = append(names, fmt.Sprintf("share-%d", i))
	}
	c := several(u.URL, interval, names...)
	p := []*running{run(t, c, b)}
	want := func(want ...int) {
		t.Helper()
		pollertest.Eventually(t, fmt.Sprint("shares of ", want), func() bool { return slices.Equal(shares(p...), want) })
	}
	want(12)
	from := time.Now()
	p = append(p, run(t, c, b), run(t, c, b))
	want(4, 4, 4)
	settledAt := time.Now()
	time.Sleep(b.LeaseTime)
	if lost := moved("lost", p...); lost > 0 {
		t.Logf("%d leases were lost: did this machine stand still for longer than %v? Once more", lost, b.LeaseTime)
		for _, q := range p {
			q.stop()
		}
		return false
	}
	wantCalm(t, u, interval, from.Add(2*interval), p)
	if st := p[0].Status(); len(st.Pollers) != 3 || st.Pollers[0].Sources != 4 {
		t.Errorf("status knows %+v", st.Pollers)
	}
	t.Logf("12 became 4, 4, 4 within %v", settledAt.Sub(from).Round(10*time.Millisecond))

	// One is cut off from NATS, and with it from its leases and the others.
	killed := time.Now()
	p[2].link.conn.Load().Close()
	p = p[:2]
	want(6, 6)
	if took := time.Since(killed); took > 2*b.LeaseTime {
		t.Errorf("its sources were with the others after %v, want two lease times of %v at most", took, b.LeaseTime)
	}
	// A clean stop hands over at once, without waiting for a lease.
	stopped := time.Now()
	p[1].stop()
	p = p[:1]
	want(12)
	if took := time.Since(stopped); took > b.LeaseTime*3/4 { // a lease would take longer
		t.Errorf("a clean stop handed over after %v", took)
	}
	return true
}

// wantCalm: eight sources moved, and nothing else happened.
func wantCalm(t *testing.T, u *asked, interval time.Duration, from time.Time, p []*running) {
	t.Helper()
	if have := moved("given", p...); have != 8 || !slices.Equal(shares(p...), []int{4, 4, 4}) {
		t.Errorf("%d sources were given away, want 8; shares %v", have, shares(p...))
	}
	for method, slots := range u.since(from, interval) {
		missed := 0
		for i, slot := range slots[1:] {
			if missed += int(slot-slots[i]) - 1; slot == slots[i] {
				t.Errorf("%s was asked twice in slot %d", method, slot)
			}
		}
		if missed > 1 {
			t.Errorf("%s missed %d polls", method, missed)
		}
	}
}
