package lease

import (
	"encoding/json"
	"log/slog"
	"sync"
	"time"
)

// maxPeers bounds the other pollers that are remembered. Further ones are ignored.
const maxPeers = 1000

// claimStep is how long a free lease is left to other pollers for each source that
// this poller has more than the one with the fewest.
const claimStep = 50 * time.Millisecond

// shares decides how many sources this poller takes and gives back. Pollers share
// their sources evenly without a leader. Each knows how many sources the others hold,
// and follows two rules:
//
//   - It leaves a free lease for a moment to pollers with fewer sources. So the sources
//     of a dead poller spread over all others.
//   - When no poller has come or gone for two lease times, a poller that holds at least
//     two sources more than another gives one back, and repeats that until no poller
//     does. Each step makes the shares more even. Nothing else moves a source while its
//     holder lives, so that this comes to an end.
//
// Neither is needed for safety. Wrong knowledge of the others makes the shares uneven,
// but no source is polled twice or not at all. Its methods may be called by several
// goroutines.
type shares struct {
	owner    string        // name of this poller
	ttl      time.Duration // lease time
	log      *slog.Logger
	sources  func() int    // number of sources in the configuration
	gone     func()        // called under mu when a poller has gone: a claimant may be next
	announce chan struct{} // capacity 1: other pollers need this one's numbers

	mu           sync.Mutex // guards what follows
	peers        map[string]*peer
	claims       map[string]bool // by lease: true if held, false while it is asked for
	givenAway    map[string]bool // leases given back that no other poller was seen to take
	returned     map[string]bool // leases that came back after that; they are not given again
	quietSince   time.Time       // when a poller last came, went or changed its sources
	disconnected bool            // from NATS
	set          string          // Member.Set of this poller, as last announced
}

// peer is another poller.
type peer struct {
	Member
	heard time.Time // when its entry last came
}

func newShares(owner string, ttl time.Duration, log *slog.Logger, sources func() int, gone func()) *shares {
	return &shares{
		owner: owner, ttl: ttl, log: log, sources: sources, gone: gone, announce: make(chan struct{}, 1),
		peers: map[string]*peer{}, claims: map[string]bool{}, givenAway: map[string]bool{}, returned: map[string]bool{},
		quietSince: time.Now(),
	}
}

// requestAnnounce asks for a new entry of this poller.
func (s *shares) requestAnnounce() {
	select {
	case s.announce <- struct{}{}:
	default:
	}
}

// setSet sets this poller's Member.Set and returns the number of sources that it holds.
func (s *shares) setSet(set string) (held int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set != set {
		s.set = set
		s.startOver()
	}
	held, _ = s.count()
	return held
}

// members returns the other pollers in no order, and this one's numbers.
func (s *shares) members() (others []Member, held int, set string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeSilent()
	for _, p := range s.peers {
		others = append(others, p.Member)
	}
	held, _ = s.count()
	return others, held, s.set
}

// heard learns from the entry of a poller, which may be this one.
func (s *shares) heard(entry []byte) {
	var m Member
	if json.Unmarshal(entry, &m) != nil || m.Owner == "" || m.Owner == s.owner {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if p := s.peers[m.Owner]; p != nil {
		if p.Set != m.Set {
			s.startOver()
		}
		p.Member, p.heard = m, now
		return
	}
	if len(s.peers) == maxPeers {
		return
	}
	s.peers[m.Owner] = &peer{m, now}
	s.startOver()
	s.log.Info("another poller joined", "owner", m.Owner, "host", m.Host, "pollers", 1+len(s.peers))
	s.requestAnnounce() // the other one should know of this one at once
}

// stopped removes the poller whose entry was deleted.
func (s *shares) stopped(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for owner := range s.peers {
		if presenceKey(owner) == key {
			s.remove(owner, "it has stopped")
		}
	}
}

// leaseRanOut removes a poller whose lease was not renewed, if it is silent too.
func (s *shares) leaseRanOut(owner string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.peers[owner]; p != nil && !s.disconnected && time.Since(p.heard) > s.ttl/2 {
		s.remove(owner, "its leases have run out")
	}
}

// setConnected notes that NATS is gone or back. While it is gone the silence of other
// pollers means nothing.
func (s *shares) setConnected(connected bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.disconnected = !connected; s.disconnected {
		return
	}
	s.quietSince = time.Now()
	for _, p := range s.peers {
		p.heard = s.quietSince
	}
	s.requestAnnounce()
}

// knows reports whether a poller is there: this one, or one that was heard.
func (s *shares) knows(owner string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return owner == s.owner || s.peers[owner] != nil
}

// claim asks whether this poller may ask for a lease that has been free for a time, as
// far as is known. If so it returns 0, and the lease counts as this poller's until
// drop. Otherwise it returns how long the lease must be free before.
func (s *shares) claim(key string, free time.Duration) (wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeSilent()
	if n, fewest, _ := s.compare(); n > 0 {
		mine, share := len(s.claims), (s.sources()+n)/(1+n) // rounded up
		switch {
		case mine >= share && mine > fewest:
			wait = s.ttl / 3
		case mine > fewest:
			wait = min(time.Duration(mine-fewest)*claimStep, s.ttl/10)
		}
	}
	if free >= wait {
		s.claims[key] = false
		return 0
	}
	return wait
}

// acquired notes that this poller holds a lease that it claimed.
func (s *shares) acquired(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims[key] = true
	if s.givenAway[key] {
		delete(s.givenAway, key)
		s.returned[key] = true
	}
	s.requestAnnounce()
}

// drop ends a claim.
func (s *shares) drop(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.claims[key] {
		s.requestAnnounce()
	}
	delete(s.claims, key)
}

// takenByOther notes that another poller holds a lease.
func (s *shares) takenByOther(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.givenAway, key)
}

// surplus returns how many sources to give back now: an eighth of what is too much,
// so that the first steps are large, but at least one.
func (s *shares) surplus() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeSilent()
	_, mine := s.count()
	n, fewest, most := s.compare()
	if n == 0 || s.disconnected || time.Since(s.quietSince) < 2*s.ttl || mine < fewest+2 || mine < most {
		return 0
	}
	return 1 + (mine-fewest-2)/8
}

// mayGive reports whether a lease that this poller holds can be given back.
func (s *shares) mayGive(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.returned[key] && !s.givenAway[key]
}

// give notes that a lease is being given back. It returns how many sources this poller
// kept until now, and the smallest number that another one holds.
func (s *shares) give(key string) (kept, fewest int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, kept = s.count()
	s.givenAway[key] = true
	_, fewest, _ = s.compare()
	return kept, fewest
}

// The rest is called with mu held.

// startOver begins a new time of quiet, in which any lease may be given back.
func (s *shares) startOver() {
	s.quietSince = time.Now()
	clear(s.returned)
	clear(s.givenAway)
}

// remove forgets another poller.
func (s *shares) remove(owner, why string) {
	delete(s.peers, owner)
	s.startOver()
	s.log.Info("another poller left", "owner", owner, "why", why, "pollers", 1+len(s.peers))
	s.gone()
}

// removeSilent removes pollers that were not heard for a lease time.
func (s *shares) removeSilent() {
	if s.disconnected {
		return
	}
	for owner, p := range s.peers {
		if time.Since(p.heard) > s.ttl {
			s.remove(owner, "it was silent for a lease time")
		}
	}
}

// count counts the sources that this poller holds, and those of them that it keeps: it
// is not giving them back.
func (s *shares) count() (held, kept int) {
	for key, isHeld := range s.claims {
		if isHeld {
			held++
			if !s.givenAway[key] {
				kept++
			}
		}
	}
	return held, kept
}

// compare counts the other pollers with the same sources, and returns the smallest and
// the largest number of sources that one of them holds.
func (s *shares) compare() (n, fewest, most int) {
	for _, p := range s.peers {
		if p.Set != s.set {
			continue
		}
		if n++; n == 1 || p.Sources < fewest {
			fewest = p.Sources
		}
		most = max(most, p.Sources)
	}
	return n, fewest, most
}
