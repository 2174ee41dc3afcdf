package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// world is everything that a test of the oracle runs: three NATS servers,
// gateways and pollers as processes, publishers, and the witnesses.
type world struct {
	*testing.T
	seed      uint64
	cluster   *cluster
	stack     *stack
	ledger    *ledger
	rush      *rush
	counter   *counter
	gateways  []*gatewaySite
	pollers   []*service
	witnesses []*witness
	sdks      []*sdkWitness
	calm      atomic.Bool // the faults are over: witnesses stay connected and read fast

	stopWitnesses context.CancelFunc
	running       sync.WaitGroup

	mu        sync.Mutex
	counts    map[string]int
	blackouts []blackout
}

// gatewaySite is a gateway's address, which outlives its processes.
type gatewaySite struct {
	addr, ops string
	service   *service
	frozen    bool
}

// blackout is a time in which no NATS server answered and no gateway was changed.
type blackout struct{ from, to time.Time }

// worldSize is the size of a world.
type worldSize struct {
	gateways, witnesses, sdks int
	topics, rate              int // of the rush; rate is events per second
	history                   int // of the stream, per subject
}

func newWorld(t *testing.T, seed uint64, size worldSize) *world {
	t.Helper()
	w := &world{T: t, seed: seed, cluster: newCluster(t), counter: newCounter(t, seed), counts: map[string]int{}}
	w.stack = &stack{t: t, file: filepath.Join(t.TempDir(), "pollcast.yaml")}
	text := fmt.Sprintf(`
nats:
  url: %s
  replicas: 3
  history: %d
  leaseTime: %v
gateway:
  maxLag: 64KiB
  history: 2000
poller:
  sources:
%s
`, w.cluster.urls(), size.history, leaseTime, w.counter.sources())
	if err := os.WriteFile(w.stack.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w.cluster.up()
	for range 2 {
		w.pollers = append(w.pollers, w.stack.poller())
	}
	for range size.gateways {
		g := &gatewaySite{addr: freeAddr(t), ops: freeAddr(t)}
		w.startGateway(g)
		w.gateways = append(w.gateways, g)
	}
	w.pollersReady()
	w.ledger = newLedger(t, w.cluster)
	w.rush = newRush(t, w.cluster, w.ledger, size.topics, size.rate, seed)
	w.gatewaysReady()

	ctx, cancel := context.WithCancel(context.Background())
	w.stopWitnesses = cancel
	t.Cleanup(func() {
		cancel()
		w.running.Wait()
	})
	for i := range size.witnesses {
		kind := witnessKinds[i%len(witnessKinds)]
		v := &witness{
			name: fmt.Sprintf("%d (%s)", i, kind.name), kind: kind, world: w, rng: rand.New(rand.NewPCG(seed, uint64(1000+i))),
			final: map[string]freshness{}, last: map[string]uint64{}, refused: map[string]int{},
		}
		for range 1 + v.rng.IntN(3) {
			if p := w.pattern(v.rng); !slices.Contains(v.wants, p) {
				v.wants = append(v.wants, p)
			}
		}
		w.witnesses = append(w.witnesses, v)
		w.running.Go(func() { v.live(ctx) })
	}
	for i := range size.sdks {
		s := newSDKWitness(w, i)
		w.sdks = append(w.sdks, s)
		w.running.Go(func() { s.live(ctx) })
	}
	return w
}

// worldPatterns overlap in every way. The first ones match fewer topics.
var worldPatterns = []string{
	"rush.t0.x", "rush.t1.*", "rush.t2.>", "*.t0.x", "*.t3.*", "up.count", "up.slow", "up.items.*", "up.items.a", "up.>",
	"up.items.b%2Fc", "rush.*.x", "*.items.>", "rush.>", ">",
}

func (w *world) pattern(rng *rand.Rand) string {
	return worldPatterns[min(rng.IntN(len(worldPatterns)), rng.IntN(len(worldPatterns)+4))]
}

func (w *world) startGateway(g *gatewaySite) {
	g.service = &service{addr: g.addr, ops: g.ops}
	g.service.process = run(w.stack.t, w.stack.command("gateway", bin.gateway,
		"gateway.listen="+g.addr, "gateway.operations="+g.ops, "gateway.drainTime=1s"))
	g.frozen = false
}

func (w *world) gatewaysReady() {
	w.Helper()
	for _, g := range w.gateways {
		w.ready(g.service)
	}
}

func (w *world) pollersReady() {
	w.Helper()
	for _, p := range w.pollers {
		w.ready(p)
	}
}

// ready waits longer than service.ready: a cluster after a fault must first elect
// leaders and catch up.
func (w *world) ready(v *service) {
	w.Helper()
	v.readyWithin(clusterPatience)
}

// roll restarts every gateway, one after another, as a deployment does. Every
// client must resume without a loss.
func (w *world) roll() {
	w.Helper()
	before := w.notResumed()
	for _, g := range w.gateways {
		g.service.signal(syscall.SIGTERM)
		if code := g.service.wait(drainLimit); code != 0 {
			w.Errorf("a drained gateway ended with exit code %d", code)
		}
		w.startGateway(g)
		w.ready(g.service)
		w.count("gateway rolled")
	}
	if after := w.notResumed(); after != before {
		w.Errorf("after a rolling restart %d resumes were not complete", after-before)
	}
}

// drainLimit is how long a gateway may take to end: the drain time, the time to
// close, and time for a busy machine.
const drainLimit = 15 * time.Second

// notResumed returns the number of incomplete resumes.
func (w *world) notResumed() (n int) {
	for _, v := range w.witnesses {
		v.mu.Lock()
		for _, times := range v.refused {
			n += times
		}
		v.mu.Unlock()
	}
	for _, s := range w.sdks {
		s.mu.Lock()
		for _, times := range s.refused {
			n += times
		}
		s.mu.Unlock()
	}
	return n
}

// listening waits until every client has its first snapshot.
func (w *world) listening() {
	w.Helper()
	within(w, clusterPatience, "every client has received something", func() error {
		for _, v := range w.witnesses {
			v.mu.Lock()
			n := len(v.record)
			v.mu.Unlock()
			if n == 0 {
				return fmt.Errorf("witness %s has not, who wants %v", v.name, v.wants)
			}
		}
		return nil
	})
}

// count counts what the test did and received.
func (w *world) count(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[what]++
}

// finish ends the publishing, waits until every witness has the last value of
// every topic that it wants, and judges the records.
func (w *world) finish() {
	w.Helper()
	w.cluster.up()
	w.gatewaysReady()
	w.pollersReady()
	w.calm.Store(true)
	w.counter.frozen.Store(true)
	w.rush.end()
	w.ledger.complete()
	w.settled()
	start := time.Now()
	within(w, clusterPatience, "every client has received the last value of everything", func() error {
		for _, v := range w.witnesses {
			if err := v.caughtUp(); err != nil {
				return err
			}
		}
		for _, s := range w.sdks {
			if err := s.caughtUp(); err != nil {
				return err
			}
		}
		return nil
	})
	w.Logf("every client had received the last value %v after it was stored", time.Since(start).Round(time.Millisecond))
	w.stopWitnesses()
	w.running.Wait()
	w.ledger.complete()
	w.verdict()
}

// settled waits until the pollers store nothing new, because their upstream does
// not change.
func (w *world) settled() {
	w.Helper()
	before := -1
	quiet := 0
	within(w, clusterPatience, "the pollers' values stand still", func() error {
		time.Sleep(300 * time.Millisecond)
		n := w.ledger.count()
		if quiet++; n != before {
			before, quiet = n, 0
		}
		if quiet < 5 {
			return fmt.Errorf("%d events", n)
		}
		return nil
	})
}

// caughtUp returns what a witness has not received yet.
func (w *witness) caughtUp() error {
	l := w.world.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	for topic, events := range l.topics {
		last := events[len(events)-1]
		if !last.deleted && anyMatches(w.wants, topic) && w.last[topic] < last.seq {
			return fmt.Errorf("witness %s, connection %d: %s stands at %d, the last is at %d; "+
				"it wants %v, received its last frame %v ago: %v",
				w.name, w.conns, topic, w.last[topic], last.seq, w.wants, time.Since(w.receivedAt).Round(time.Millisecond),
				w.record[max(0, len(w.record)-12):])
		}
	}
	rush := w.world.rush
	rush.mu.Lock()
	defer rush.mu.Unlock()
	for topic, want := range rush.last {
		if !anyMatches(w.wants, topic) {
			continue
		}
		have := w.final[topic]
		if have.conn != w.conns || !have.asOf.Equal(want.AsOf) || have.stale != want.Stale ||
			have.reason != string(want.Reason) {
			return fmt.Errorf("witness %s, connection %d: the freshness of %s is %+v, the publisher's last is %+v", w.name,
				w.conns, topic, have, want)
		}
	}
	return nil
}

// verdict reports every broken promise and what the test has done.
func (w *world) verdict() {
	w.Helper()
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	events, taken, resumes, conns, breaches := 0, 0, 0, 0, 0
	refused := map[string]int{}
	report := func(name, what string) {
		if breaches++; breaches <= 40 {
			w.Errorf("seed %d, witness %s: %s", w.seed, name, what)
		}
	}
	for _, v := range w.witnesses {
		j := &judge{ledger: w.ledger, w: v}
		j.judge()
		for _, b := range append(slices.Concat(v.broken, j.broken), v.blackouts(w.blackouts)...) {
			report(v.name, b)
		}
		events, taken, resumes, conns = events+j.checked, taken+j.removed, resumes+v.resumes, conns+v.conns
		for reason, n := range v.refused {
			refused[reason] += n
		}
	}
	for _, s := range w.sdks {
		for _, b := range s.judge(w.ledger) {
			report(s.name, b)
		}
		events, conns, resumes = events+len(s.events), conns+s.conns, resumes+s.resumes
		for reason, n := range s.refused {
			refused[reason] += n
		}
	}
	stored := 0
	for _, e := range w.ledger.topics {
		stored += len(e)
	}
	w.Logf("seed %d: %d events of %d topics stored; %d clients with %d connections received %d; "+
		"%d resumes, of which not complete: %s; removed by deletions: %d",
		w.seed, stored, len(w.ledger.topics), len(w.witnesses)+len(w.sdks), conns, events, resumes, sums(refused), taken)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Logf("seed %d: done and seen: %s", w.seed, sums(w.counts))
	w.Logf("seed %d: %d violations", w.seed, breaches)
	if events < stored || resumes == 0 {
		w.Errorf("%d events were stored, %d received, %d resumes: the test did not test much", stored, events, resumes)
	}
}

func sums(m map[string]int) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s %d", k, m[k]))
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// staleGrace is how much later than the protocol demands a busy machine may be.
const staleGrace = 3 * time.Second

// blackouts returns the polls that were not stale although no gateway could know
// them.
func (w *witness) blackouts(blackouts []blackout) (broken []string) {
	if w.kind.slow || w.kind.fickle {
		return nil // it receives late, or not all polls any more
	}
	for _, b := range blackouts {
		by := b.from.Add(rushMaxAge + time.Second + staleGrace)
		if by.After(b.to) {
			continue
		}
		fresh, conn := map[string]bool{}, 0
		for _, s := range w.stalePeriods {
			switch {
			case s.at.After(by):
			case s.end:
				conn = 0
			case s.poll == "":
				clear(fresh)
				if conn = s.conn; s.at.After(b.from.Add(-time.Second)) {
					conn = 0 // connected too late to know all polls
				}
			default:
				fresh[s.poll] = !s.stale
			}
		}
		for poll, is := range fresh {
			if conn > 0 && is {
				broken = append(broken, fmt.Sprintf("connection %d: %s was not called stale within %v of NATS going away", conn,
					poll, by.Sub(b.from)))
			}
		}
	}
	return broken
}
