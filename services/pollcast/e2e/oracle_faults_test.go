package e2e

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
)

// The faults of a world are a plan made from its seed: their order, their targets
// and their durations. A slow machine gets less far in the same time, with the
// same plan.

// fault is one kind of fault, and how often it is chosen.
type fault struct {
	name   string
	weight int
	do     func(*saboteur, time.Duration)
	// least and most bound the time until it is repaired.
	least, most time.Duration
}

var faults = []fault{
	{"gateway killed", 5, (*saboteur).killGateway, 200 * time.Millisecond, 3 * time.Second},
	{"gateway frozen", 4, (*saboteur).freezeGateway, 300 * time.Millisecond, 6 * time.Second},
	{"gateway drained", 3, (*saboteur).drainGateway, 0, time.Second},
	{"nats killed", 4, (*saboteur).killNode, 500 * time.Millisecond, 4 * time.Second},
	{"nats frozen", 4, (*saboteur).freezeNode, 300 * time.Millisecond, 6 * time.Second},
	{"nats stopped", 1, (*saboteur).stopNode, 200 * time.Millisecond, 2 * time.Second},
	{"leader moved", 5, (*saboteur).moveLeader, 0, 1},
	{"quorum killed", 1, (*saboteur).killQuorum, time.Second, 3 * time.Second},
	{"blackout", 1, (*saboteur).blackOut, 6500 * time.Millisecond, 7500 * time.Millisecond},
	{"poller killed", 1, (*saboteur).killPoller, 500 * time.Millisecond, 3 * time.Second},
}

// saboteur breaks the parts of a world one after another and repairs them.
type saboteur struct {
	*world
	rng  *rand.Rand
	nc   *nats.Conn
	todo mendings
	busy map[any]bool // the parts that are broken now
	dark bool
}

// repair is due at a time.
type repair struct {
	at time.Time
	do func()
}

type mendings []repair

func (m mendings) Len() int           { return len(m) }
func (m mendings) Less(i, j int) bool { return m[i].at.Before(m[j].at) }
func (m mendings) Swap(i, j int)      { m[i], m[j] = m[j], m[i] }
func (m *mendings) Push(x any)        { *m = append(*m, x.(repair)) }
func (m *mendings) Pop() any {
	last := (*m)[len(*m)-1]
	*m = (*m)[:len(*m)-1]
	return last
}

// breakThings breaks what the seed chooses for a while, with pauses of about pause.
func (w *world) breakThings(length, pause time.Duration, kinds []fault) {
	w.Helper()
	b := &saboteur{world: w, rng: rand.New(rand.NewPCG(w.seed, 42)), nc: w.cluster.connect(w, admin),
		busy: map[any]bool{}}
	total := 0
	for _, f := range kinds {
		total += f.weight
	}
	end := time.Now().Add(length)
	next := time.Now().Add(pause)
	for time.Now().Before(end) {
		for len(b.todo) > 0 && !time.Now().Before(b.todo[0].at) {
			heap.Pop(&b.todo).(repair).do()
		}
		if now := time.Now(); now.After(next) && !b.dark {
			n := b.rng.IntN(total)
			for _, f := range kinds {
				if n -= f.weight; n < 0 {
					d := f.least + time.Duration(b.rng.Int64N(int64(max(1, f.most-f.least))))
					b.count(f.name)
					f.do(b, d)
					break
				}
			}
			next = now.Add(time.Duration(float64(pause) * (0.3 + 1.4*b.rng.Float64())))
		}
		time.Sleep(10 * time.Millisecond)
	}
	for len(b.todo) > 0 {
		heap.Pop(&b.todo).(repair).do()
	}
}

func (b *saboteur) later(d time.Duration, what any, do func()) {
	b.busy[what] = true
	heap.Push(&b.todo, repair{time.Now().Add(d), func() {
		delete(b.busy, what)
		do()
	}})
}

// aGateway returns a working gateway, or nil.
func (b *saboteur) aGateway() *gatewaySite {
	g := b.gateways[b.rng.IntN(len(b.gateways))]
	if b.busy[g] {
		return nil
	}
	return g
}

func (b *saboteur) killGateway(d time.Duration) {
	if g := b.aGateway(); g != nil {
		g.service.kill()
		b.later(d, g, func() { b.startGateway(g) })
	}
}

func (b *saboteur) freezeGateway(d time.Duration) {
	if g := b.aGateway(); g != nil {
		s := g.service
		s.signal(syscall.SIGSTOP)
		b.later(d, g, func() { s.signal(syscall.SIGCONT) })
	}
}

// drainGateway is one step of a rolling restart.
func (b *saboteur) drainGateway(d time.Duration) {
	if g := b.aGateway(); g != nil {
		s := g.service
		s.signal(syscall.SIGTERM)
		b.later(2*time.Second+d, g, func() {
			if code := s.wait(drainLimit); code != 0 {
				b.Errorf("a drained gateway ended with exit code %d", code)
			}
			b.startGateway(g)
		})
	}
}

// aNode returns a node that can be stopped because the two others have a quorum,
// or nil.
func (b *saboteur) aNode() *clusterNode {
	n := b.cluster.nodes[b.rng.IntN(clusterSize)]
	for _, m := range b.cluster.nodes {
		if b.busy[m] {
			return nil
		}
	}
	return n
}

func (b *saboteur) killNode(d time.Duration) {
	if n := b.aNode(); n != nil {
		b.cluster.kill(n)
		b.later(d, n, func() { b.cluster.restore(n) })
	}
}

func (b *saboteur) freezeNode(d time.Duration) {
	if n := b.aNode(); n != nil {
		b.cluster.freeze(n)
		b.later(d, n, func() { b.cluster.restore(n) })
	}
}

// stopNode stops a node as a rolling restart of NATS does.
func (b *saboteur) stopNode(d time.Duration) {
	if n := b.aNode(); n != nil {
		n.process.signal(syscall.SIGTERM)
		b.later(time.Second+d, n, func() {
			n.process.wait(2 * endTime)
			b.cluster.restore(n)
		})
	}
}

// killQuorum leaves one node, which has no quorum.
func (b *saboteur) killQuorum(d time.Duration) {
	n := b.aNode()
	for _, m := range b.cluster.nodes {
		if n != nil && m != n {
			b.cluster.kill(m)
			b.later(d, m, func() { b.cluster.restore(m) })
		}
	}
}

// blackOut freezes all of NATS. Everything else works.
func (b *saboteur) blackOut(d time.Duration) {
	if len(b.busy) > 0 {
		return
	}
	from := time.Now()
	for _, n := range b.cluster.nodes {
		b.cluster.freeze(n)
	}
	b.dark = true
	b.later(d, "dark", func() {
		b.dark = false
		b.mu.Lock()
		b.blackouts = append(b.blackouts, blackout{from, time.Now()})
		b.mu.Unlock()
		for _, n := range b.cluster.nodes {
			b.cluster.restore(n)
		}
	})
}

func (b *saboteur) moveLeader(time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, _ = b.nc.RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN.POLLCAST", nil) // there may be no leader
}

func (b *saboteur) killPoller(d time.Duration) {
	i := b.rng.IntN(len(b.pollers))
	if p := b.pollers[i]; !b.busy[p] {
		p.kill()
		b.later(d, p, func() { b.pollers[i] = b.stack.poller() })
	}
}
