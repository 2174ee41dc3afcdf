package poller

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
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
		s := newSchedule(method+".status", interval)
		for _, at := range calls {
			if at.After(from) {
				out[method] = append(out[method], s.next(at).UnixNano()/int64(interval))
			}
		}
	}
	return out
}

// shares are how many sources each poller owns, most first.
func shares(pollers ...*running) (all []int) {
	for _, p := range pollers {
		n := 0
		for _, r := range p.list() {
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
		for _, r := range p.list() {
			n += int(testutil.ToFloat64(p.metrics.runner.leaseChanges.WithLabelValues(r.name, change)))
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
		eventually(t, fmt.Sprint("shares of ", want), func() bool { return slices.Equal(shares(p...), want) })
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
	p[2].nc.Load().Close()
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

// From any shares, with pollers that come and go and hear of each other late,
// the rules end in even shares and then move nothing more.
func TestSharesEndEven(t *testing.T) {
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 2))
			sim := &shareSim{t: t, rng: rng, n: 1 + rng.IntN(60)}
			for range 1 + rng.IntN(6) {
				sim.join()
			}
			for key := range sim.n { // anyhow
				sim.pollers[rng.IntN(len(sim.pollers))].claims[fmt.Sprint(key)] = true
			}
			for range 3 {
				switch {
				case rng.IntN(2) == 0:
					sim.join()
				case len(sim.pollers) > 1:
					sim.die(rng.IntN(len(sim.pollers)))
				}
				sim.settle(seed)
			}
		})
	}
}

// shareSim is pollers whose bucket of leases is this struct.
type shareSim struct {
	t       *testing.T
	rng     *rand.Rand
	n       int
	free    []string
	pollers []*replicas
	moves   int
	named   int
}

// simSource is one of the sources, which are the same for all.
type simSource struct{}

func (simSource) Name() string     { return "s" }
func (simSource) Lease() *lease    { return nil }
func (simSource) Owned() bool      { return false }
func (simSource) Since() time.Time { return time.Time{} }
func (simSource) Give()            {}

const simTTL = 10 * time.Second

func (s *shareSim) join() {
	s.named++
	log := slog.New(slog.DiscardHandler)
	c := newReplicas(groupOptions{
		Owner: fmt.Sprint("p", s.named), Host: "h", TTL: simTTL, Log: log,
		Claimants: func() []claimant { return slices.Repeat([]claimant{simSource{}}, s.n) },
	})
	s.pollers = append(s.pollers, c)
}

// die takes a poller away without a word.
func (s *shareSim) die(i int) {
	for key := range s.pollers[i].claims {
		s.free = append(s.free, key)
	}
	slices.Sort(s.free)
	s.pollers = slices.Delete(s.pollers, i, i+1)
}

// round is a third of a lease time: everybody says how many it has, and others
// hear it, some late; then everybody acts on what it has heard.
func (s *shareSim) round() {
	time.Sleep(simTTL / 3)
	for _, from := range s.pollers {
		me := from.self
		me.Sources, me.Set = from.owned(), from.mine
		data, err := json.Marshal(me)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, to := range s.pollers {
			if to != from && s.rng.IntN(4) > 0 {
				to.hear(&nats.Msg{Data: data}, false)
			}
		}
	}
	for _, i := range s.rng.Perm(len(s.pollers)) {
		c := s.pollers[i]
		for range c.surplus(time.Now()) {
			for key := range c.claims {
				delete(c.claims, key)
				c.given[key] = true
				s.free = append(s.free, key)
				break
			}
			s.moves++
		}
	}
	var left []string
	for _, key := range s.free {
		taken := false
		for _, free := range []time.Duration{0, time.Second, simTTL} { // the longer it is free, the less choosy they are
			for _, i := range s.rng.Perm(len(s.pollers)) {
				if c := s.pollers[i]; !taken && c.claim(key, free) == 0 {
					c.got(key)
					taken = true
				}
			}
		}
		if !taken {
			left = append(left, key)
		}
	}
	s.free = left
}

// settle runs until the shares are even, and then for five minutes more.
func (s *shareSim) settle(seed uint64) {
	s.t.Helper()
	even := func() (bool, []int) {
		var have []int
		for _, c := range s.pollers {
			have = append(have, c.owned())
		}
		return slices.Max(have)-slices.Min(have) <= 1 && len(s.free) == 0, have
	}
	s.moves = 0
	for i, quiet := 0, 0; quiet < 10; i++ { // until what was heard late is heard
		ok, have := even()
		if quiet++; !ok {
			quiet = 0
		}
		if i == 400 {
			s.t.Fatalf("seed %d: after %d rounds and %d moves the shares are %v, %d sources are free", seed, i, s.moves, have, len(s.free))
		}
		s.round()
	}
	if s.moves > 2*s.n {
		s.t.Errorf("seed %d: %d moves for %d sources", seed, s.moves, s.n)
	}
	s.moves = 0
	for range 100 {
		s.round()
	}
	if ok, have := even(); !ok || s.moves != 0 {
		s.t.Errorf("seed %d: no peace: %d moves without need, shares %v", seed, s.moves, have)
	}
}
