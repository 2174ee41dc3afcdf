package lease

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

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
			for key := range sim.n { // at random
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

// shareSim simulates pollers. It takes the place of the bucket of their leases.
type shareSim struct {
	t       *testing.T
	rng     *rand.Rand
	n       int
	free    []string
	pollers []*shares
	moves   int
	named   int
}

const simTTL = 10 * time.Second

func (s *shareSim) join() {
	s.named++
	c := newShares(fmt.Sprint("p", s.named), simTTL, slog.New(slog.DiscardHandler), func() int { return s.n }, func() {})
	s.pollers = append(s.pollers, c)
}

// die removes a poller that gives nothing back.
func (s *shareSim) die(i int) {
	for key := range s.pollers[i].claims {
		s.free = append(s.free, key)
	}
	slices.Sort(s.free)
	s.pollers = slices.Delete(s.pollers, i, i+1)
}

// round is a third of a lease time: each poller announces how many sources it holds, and
// the others hear it, some late. Then each acts on what it has heard.
func (s *shareSim) round() {
	time.Sleep(simTTL / 3)
	for _, from := range s.pollers {
		held, _ := from.count()
		data, err := json.Marshal(Member{Owner: from.owner, Host: "h", Sources: held})
		if err != nil {
			s.t.Fatal(err)
		}
		for _, to := range s.pollers {
			if to != from && s.rng.IntN(4) > 0 {
				to.heard(data)
			}
		}
	}
	for _, i := range s.rng.Perm(len(s.pollers)) {
		c := s.pollers[i]
		for range c.surplus() {
			for key := range c.claims {
				delete(c.claims, key)
				c.givenAway[key] = true
				s.free = append(s.free, key)
				break
			}
			s.moves++
		}
	}
	var left []string
	for _, key := range s.free {
		taken := false
		for _, free := range []time.Duration{0, time.Second, simTTL} { // more pollers take what is free for longer
			for _, i := range s.rng.Perm(len(s.pollers)) {
				if c := s.pollers[i]; !taken && c.claim(key, free) == 0 {
					c.acquired(key)
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

// settle runs until the shares are even, and then for 100 rounds more.
func (s *shareSim) settle(seed uint64) {
	s.t.Helper()
	even := func() (bool, []int) {
		var have []int
		for _, c := range s.pollers {
			held, _ := c.count()
			have = append(have, held)
		}
		return slices.Max(have)-slices.Min(have) <= 1 && len(s.free) == 0, have
	}
	s.moves = 0
	for i, quiet := 0, 0; quiet < 10; i++ { // until late announcements have come too
		ok, have := even()
		if quiet++; !ok {
			quiet = 0
		}
		if i == 400 {
			s.t.Fatalf("seed %d: after %d rounds and %d moves the shares are %v, %d sources are free",
				seed, i, s.moves, have, len(s.free))
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
		s.t.Errorf("seed %d: %d moves without need, shares %v", seed, s.moves, have)
	}
}
