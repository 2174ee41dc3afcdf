package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/services/poller/clock"
)

// Claimant is a source of this poller. It holds its lease or waits for it. Its methods
// must not block and must not call the Group.
type Claimant interface {
	Name() string
	Lease() *Lease // nil until the source was started
	Owned() bool
	Since() time.Time // when the tenure began; zero without one
	Give()            // ends the tenure with ErrGiven
}

// Member is a poller that shares the sources. It is also the value, in JSON, of the
// entry that each poller keeps in the bucket of the leases.
type Member struct {
	Owner   string    `json:"owner"` // name of the poller
	Host    string    `json:"host"`
	Since   time.Time `json:"since"`   // when it started
	Sources int       `json:"sources"` // number of sources whose lease it holds
	// Set identifies the names of all sources in its configuration. Only pollers with
	// the same set share them evenly: while configurations change, sets differ.
	Set string `json:"set"`
}

// Options of a Group. All are required.
type Options struct {
	KV          bus.Bucket    // bucket of the leases
	Owner, Host string        // of this poller
	TTL         time.Duration // lease time
	Log         *slog.Logger
	Claimants   func() []Claimant           // current sources of this poller; called under the Group's mutex
	Repair      func(context.Context) error // creates the bucket again if it is gone
	Complain    func(error)                 // called when NATS has no storage for a renewal
}

// Group is this poller's view of the pollers that share its sources. It announces this
// poller, listens to the others, and gives sources back to make the shares even. Its
// methods may be called by several goroutines; Run and Listen are called once.
type Group struct {
	kv        bus.Bucket
	self      Member // without Sources and Set
	ttl       time.Duration
	log       *slog.Logger
	claimants func() []Claimant
	repair    func(context.Context) error
	complain  func(error)
	shares    *shares
}

// NewGroup makes a Group. Listen and Run start it.
func NewGroup(o Options) *Group {
	g := &Group{
		kv: o.KV, self: Member{Owner: o.Owner, Host: o.Host, Since: clock.Stamp(time.Now())}, ttl: o.TTL, log: o.Log,
		claimants: o.Claimants, repair: o.Repair, complain: o.Complain,
	}
	g.shares = newShares(o.Owner, o.TTL, o.Log, func() int { return len(o.Claimants()) }, g.wakeWaiting)
	g.shares.setSet(g.sourceSet())
	return g
}

// Lease makes the lease of a source. The Group must not have another one of it.
func (g *Group) Lease(source string, log *slog.Logger) *Lease {
	return &Lease{group: g, key: entryKey(source), log: log, wake: make(chan struct{}, 1)}
}

// presencePrefix begins the keys of the entries of pollers. No source's name begins
// with an underscore.
const presencePrefix = "_poller."

// presenceKey makes the key of a poller's entry from its name.
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

// sourceSet is the Set of this poller.
func (g *Group) sourceSet() string {
	h := fnv.New64a()
	for _, c := range g.claimants() {
		fmt.Fprintln(h, c.Name())
	}
	return strconv.FormatUint(h.Sum64(), 36)
}

// Listen subscribes to the bucket of the leases, so that a lease that is released moves
// at once and pollers know each other. What it receives about leases is only a hint:
// the subjects also carry writes that the bucket refuses, such as the tries of all
// pollers that wait. Only the bucket says who holds a lease.
func (g *Group) Listen(nc *bus.Conn, bucket string) error {
	prefix := "$KV." + bucket + "."
	_, err := nc.Subscribe(prefix+">", func(m *nats.Msg) {
		key, deleted := strings.TrimPrefix(m.Subject, prefix), m.Header.Get("KV-Operation") != ""
		switch {
		case strings.HasPrefix(key, presencePrefix) && deleted:
			g.shares.stopped(key)
		case strings.HasPrefix(key, presencePrefix):
			g.shares.heard(m.Data)
		case deleted:
			g.noteRelease(key)
		}
	})
	if err != nil {
		return errors.Join(errors.New("watch leases"), err)
	}
	return nil
}

// noteRelease wakes the claimant that waits for the lease with a key.
func (g *Group) noteRelease(key string) {
	for _, c := range g.claimants() {
		if l := c.Lease(); l != nil && l.key == key && !c.Owned() {
			l.noteRelease()
		}
	}
}

// wakeWaiting has all claimants that wait for a lease look at once.
func (g *Group) wakeWaiting() {
	for _, c := range g.claimants() {
		if l := c.Lease(); l != nil && !c.Owned() {
			l.Wake()
		}
	}
}

// Run announces this poller and makes the shares even, until ctx ends. Then it removes
// this poller's entry.
func (g *Group) Run(ctx context.Context) {
	tick := time.NewTicker(g.ttl / 3)
	defer tick.Stop()
	for {
		g.putPresence(ctx)
		select {
		case <-ctx.Done():
			g.deletePresence(ctx)
			return
		case <-tick.C:
			g.evenOut()
		case <-g.shares.announce:
			select { // further changes that come soon go into the same entry
			case <-ctx.Done():
			case <-time.After(min(50*time.Millisecond, g.ttl/20)):
			}
		}
	}
}

// Announce has Run write this poller's entry soon, because its sources have changed.
func (g *Group) Announce() { g.shares.requestAnnounce() }

// putPresence writes this poller's entry.
func (g *Group) putPresence(ctx context.Context) {
	me := g.self
	me.Set = g.sourceSet()
	me.Sources = g.shares.setSet(me.Set)
	value, err := json.Marshal(me)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, g.ttl/3)
		defer cancel()
		_, err = g.kv.Put(ctx, presenceKey(me.Owner), value)
	}
	if err != nil && ctx.Err() == nil {
		g.log.Debug("this poller's entry not written", "error", err)
	}
}

// deletePresence removes this poller's entry.
func (g *Group) deletePresence(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(releaseTimeout, g.ttl/3))
	defer cancel()
	if err := g.kv.Delete(ctx, presenceKey(g.self.Owner)); err != nil {
		g.log.Debug("this poller's entry not removed", "error", err)
	}
}

// OnState notes that the connection to NATS is lost or back.
func (g *Group) OnState(connected bool) { g.shares.setConnected(connected) }

// evenOut gives sources back if other pollers have fewer: those that came last.
func (g *Group) evenOut() {
	n := g.shares.surplus()
	if n == 0 {
		return
	}
	list := slices.DeleteFunc(g.claimants(), func(c Claimant) bool {
		l := c.Lease()
		return l == nil || !c.Owned() || !g.shares.mayGive(l.key)
	})
	slices.SortFunc(list, func(a, b Claimant) int { return b.Since().Compare(a.Since()) })
	for _, c := range list[:min(n, len(list))] {
		kept, fewest := g.shares.give(c.Lease().key)
		g.log.Info("source given back: another poller has fewer", "source", c.Name(), "sources", kept, "fewest", fewest)
		c.Give()
	}
}

// Members returns the known pollers by name, this one included, and this one's Set.
func (g *Group) Members() (all []Member, set string) {
	me := g.self
	all, me.Sources, me.Set = g.shares.members()
	all = append(all, me)
	slices.SortFunc(all, func(a, b Member) int { return strings.Compare(a.Owner, b.Owner) })
	return all, me.Set
}
