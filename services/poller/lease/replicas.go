package lease

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/services/poller/clock"
)

// Pollers share their sources evenly without a leader. Each keeps an entry in
// the bucket of the leases that says how many sources it owns, and hears those
// of the others. Two rules follow from that:
//
//   - A lease that is free is left for a moment to whoever owns fewer sources,
//     so that those of a poller that died spread over all that are left.
//   - When nothing has come or gone for two lease times, a poller that owns at
//     least two sources more than another gives one back, again and again, until
//     none does. Every such step makes the shares more even, and nothing else
//     moves a source while its owner lives, so that it comes to an end.
//
// Neither is needed for safety, which is the leases' alone: a wrong idea of the
// others makes the shares uneven, not a source polled twice or not at all.

// claimant is a source of this poller, which holds its lease or waits for it.
type Claimant interface {
	Name() string
	Lease() *Lease // nil until NATS was there
	Owned() bool
	Since() time.Time // when it got the lease; zero without one
	Give()            // gives the lease back
}

// maxReplicas bounds the others that are remembered.
const maxReplicas = 1000

// presence is the entry of a poller.
type Member struct {
	Owner   string    `json:"owner"`
	Host    string    `json:"host"`
	Since   time.Time `json:"since"`
	Sources int       `json:"sources"` // that it owns
	// Set names the sources of its configuration: pollers with other ones, as
	// in the middle of a change of all configurations, share nothing evenly.
	Set string `json:"set"`
}

// replicas is what a poller knows of those that share its leases.
type Group struct {
	kv   jetstream.KeyValue
	self Member // without Sources
	ttl  time.Duration
	log  *slog.Logger
	list func() []Claimant
	// repair makes the bucket again if it is gone.
	repair func(context.Context) error
	// complain is called when NATS has no room for a lease.
	complain func(error)

	dirty chan struct{} // the presence is to be said again

	mu     sync.Mutex
	others map[string]*peer // by owner
	claims map[string]bool  // by lease: true when it is owned, false while it is asked for
	quiet  time.Time        // since when nobody has come or gone
	given  map[string]bool  // leases given away that nobody was seen to take
	kept   map[string]bool  // leases that nobody else wanted: not given again
	away   bool             // NATS is
	mine   string           // Set, as last said
}

type peer struct {
	Member
	heard time.Time
}

// groupOptions is what a group is made of.
type Options struct {
	KV          jetstream.KeyValue // the bucket of the leases
	Owner, Host string             // this poller
	TTL         time.Duration      // of a lease
	Log         *slog.Logger
	Claimants   func() []Claimant           // this poller's sources
	Repair      func(context.Context) error // makes the bucket again if it is gone
	Complain    func(error)                 // called when NATS has no room for a lease
}

func NewGroup(o Options) *Group {
	c := &Group{
		kv: o.KV, self: Member{Owner: o.Owner, Host: o.Host, Since: clock.Stamp(time.Now())}, ttl: o.TTL, log: o.Log,
		list: o.Claimants, repair: o.Repair, complain: o.Complain,
		dirty: make(chan struct{}, 1), others: map[string]*peer{}, claims: map[string]bool{},
		quiet: time.Now(), given: map[string]bool{}, kept: map[string]bool{},
	}
	c.mine = c.set()
	return c
}

// presencePrefix begins the keys of presences. No source's name begins with _.
const presencePrefix = "_poller."

// presenceKey makes a KV key of a poller's name.
func presenceKey(owner string) string {
	var b strings.Builder
	b.WriteString(presencePrefix)
	for _, c := range []byte(owner) {
		if c == '-' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}

// set names the sources of this poller.
func (c *Group) set() string {
	h := fnv.New64a()
	for _, r := range c.list() {
		fmt.Fprintln(h, r.Name())
	}
	return strconv.FormatUint(h.Sum64(), 36)
}

// run says that this poller is there, and evens the shares, until ctx ends.
func (c *Group) Run(ctx context.Context) {
	tick := time.NewTicker(c.ttl / 3)
	defer tick.Stop()
	for {
		c.announce(ctx)
		select {
		case <-ctx.Done():
			c.leave(ctx)
			return
		case <-tick.C:
			c.even()
		case <-c.dirty:
			select { // what else changes now is said with it
			case <-ctx.Done():
			case <-time.After(min(50*time.Millisecond, c.ttl/20)):
			}
		}
	}
}

func (c *Group) announce(ctx context.Context) {
	me := c.self
	me.Set = c.set()
	c.mu.Lock()
	if me.Sources = c.owned(); c.mine != me.Set {
		c.mine = me.Set
		c.changed(time.Now())
	}
	c.mu.Unlock()
	value, err := json.Marshal(me)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, c.ttl/3)
		defer cancel()
		_, err = c.kv.Put(ctx, presenceKey(me.Owner), value)
	}
	if err != nil && ctx.Err() == nil {
		c.log.Debug("presence not said", "error", err)
	}
}

func (c *Group) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(giveBackTimeout, c.ttl/3))
	defer cancel()
	if err := c.kv.Delete(ctx, presenceKey(c.self.Owner)); err != nil {
		c.log.Debug("presence not taken back", "error", err)
	}
}

func (c *Group) Announce() {
	select {
	case c.dirty <- struct{}{}:
	default:
	}
}

// hear learns from an entry of a poller; a deletion says that it has gone.
func (c *Group) hear(m *nats.Msg, deleted bool) {
	var p Member
	if !deleted && (json.Unmarshal(m.Data, &p) != nil || p.Owner == "" || p.Owner == c.self.Owner) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if deleted {
		for owner := range c.others {
			if strings.HasSuffix(m.Subject, "."+presenceKey(owner)) {
				c.remove(owner, now, "it has stopped")
			}
		}
		return
	}
	if r := c.others[p.Owner]; r != nil {
		if r.Set != p.Set {
			c.changed(now)
		}
		r.Member, r.heard = p, now
		return
	}
	if len(c.others) == maxReplicas {
		return
	}
	c.others[p.Owner] = &peer{p, now}
	c.changed(now)
	c.log.Info("another poller has come", "owner", p.Owner, "host", p.Host, "pollers", 1+len(c.others))
	c.Announce() // it should know of this one at once
}

// remove forgets another poller, with mu held. Whoever waits for a lease may
// have its turn now.
func (c *Group) remove(owner string, now time.Time, why string) {
	delete(c.others, owner)
	c.changed(now)
	c.log.Info("another poller has gone", "owner", owner, "why", why, "pollers", 1+len(c.others))
	c.pokeAll()
}

// turned notes, with mu held, that somebody came or went.
func (c *Group) changed(now time.Time) {
	c.quiet = now
	clear(c.kept)
	clear(c.given)
}

// pokeAll wakes whoever waits for a lease.
func (c *Group) pokeAll() {
	for _, r := range c.list() {
		if l := r.Lease(); l != nil && !r.Owned() {
			l.Poke()
		}
	}
}

// onState keeps others from being taken for dead because NATS was.
func (c *Group) OnState(connected bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.away = !connected; !c.away {
		for _, r := range c.others {
			r.heard = now
		}
		c.quiet = now
		c.Announce()
	}
}

// tidy removes, with mu held, whoever was not heard for a lease time.
func (c *Group) tidy(now time.Time) {
	if c.away {
		return
	}
	for owner, r := range c.others {
		if now.Sub(r.heard) > c.ttl {
			c.remove(owner, now, "it was silent for a lease time")
		}
	}
}

// suspect is told whose lease has run out: if it is silent too, it is dead.
func (c *Group) suspect(owner string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.others[owner]; r != nil && !c.away && time.Since(r.heard) > c.ttl/2 {
		c.remove(owner, time.Now(), "its leases have run out")
	}
}

// knows says that a poller is there: this one, or one that is heard of.
func (c *Group) knows(owner string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return owner == c.self.Owner || c.others[owner] != nil
}

func (c *Group) owned() (n int) {
	for _, owned := range c.claims {
		if owned {
			n++
		}
	}
	return n
}

// staying counts the sources owned without those that are being given away.
func (c *Group) staying() (n int) {
	for key, owned := range c.claims {
		if owned && !c.given[key] {
			n++
		}
	}
	return n
}

// peers are the others with the same sources, and how many the one with the
// fewest and the one with the most own.
func (c *Group) peers() (n, least, most int) {
	for _, r := range c.others {
		if r.Set != c.mine {
			continue
		}
		if n++; n == 1 || r.Sources < least {
			least = r.Sources
		}
		most = max(most, r.Sources)
	}
	return n, least, most
}

// claim asks whether a lease that is free, as far as is known for some time,
// may be taken. If so, it counts as ours until
// drop; otherwise claim returns how long it is to be free before.
func (c *Group) claim(key string, free time.Duration) (wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tidy(time.Now())
	if n, least, _ := c.peers(); n > 0 {
		mine, share := len(c.claims), (len(c.list())+n)/(1+n) // rounded up
		switch {
		case mine >= share && mine > least:
			wait = c.ttl / 3
		case mine > least:
			wait = min(time.Duration(mine-least)*50*time.Millisecond, c.ttl/10)
		}
	}
	if free >= wait {
		c.claims[key] = false
		return 0
	}
	return wait
}

// got says that a claimed lease is ours.
func (c *Group) got(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.claims[key] = true
	if c.given[key] {
		delete(c.given, key)
		c.kept[key] = true
	}
	c.Announce()
}

// drop ends a claim.
func (c *Group) drop(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.claims[key] {
		c.Announce()
	}
	delete(c.claims, key)
}

// taken says that another poller has a lease.
func (c *Group) taken(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.given, key)
}

// surplus is how many sources to give back now: an eighth of what there is too
// much, so that it goes quickly at first, and at least one.
func (c *Group) surplus(now time.Time) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tidy(now)
	mine := c.staying()
	n, least, most := c.peers()
	if n == 0 || c.away || now.Sub(c.quiet) < 2*c.ttl || mine < least+2 || mine < most {
		return 0
	}
	return 1 + (mine-least-2)/8
}

// even gives sources back if others have fewer: those that came last.
func (c *Group) even() {
	n := c.surplus(time.Now())
	if n == 0 {
		return
	}
	list := slices.DeleteFunc(c.list(), func(r Claimant) bool {
		l := r.Lease()
		if l == nil || !r.Owned() {
			return true
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.kept[l.key] || c.given[l.key]
	})
	slices.SortFunc(list, func(a, b Claimant) int { return b.Since().Compare(a.Since()) })
	for _, r := range list[:min(n, len(list))] {
		c.mu.Lock()
		mine := c.staying()
		c.given[r.Lease().key] = true
		_, least, _ := c.peers()
		c.mu.Unlock()
		c.log.Info("source given back: another poller has fewer", "source", r.Name(), "sources", mine, "fewest", least)
		r.Give()
	}
}

// all are the pollers that are known, by name, this one included.
func (c *Group) Members() (out []Member, set string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tidy(time.Now())
	me := c.self
	me.Sources, me.Set = c.owned(), c.mine
	out = append(out, me)
	for _, r := range c.others {
		out = append(out, r.Member)
	}
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.Owner, b.Owner) })
	return out, c.mine
}
