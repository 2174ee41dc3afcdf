package poller

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

// fromStream reads a topic's events back, as the stream holds them.
func fromStream(t testing.TB, s *bustest.Server, topic string) (all []*event.Event) {
	t.Helper()
	nc := s.Connect()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	names, err := bus.NewNames("")
	if err != nil {
		t.Fatal(err)
	}
	state, err := bus.State(t.Context(), js, names)
	if err != nil {
		t.Fatal(err)
	}
	if err := names.Range(t.Context(), nc, names.In(topic), 1, state.LastSeq, func(m *nats.Msg) {
		d, err := names.Decode(m)
		if err != nil || d.Event == nil {
			t.Fatalf("%s: %v", m.Subject, err)
		}
		all = append(all, d.Event)
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// Whoever walks, however often it is cut off in the middle, and NATS with it:
// the stream has every position once, in order.
func TestFollowSurvivesKills(t *testing.T) { followKills(t, true, 4) }

func followKills(t *testing.T, parents bool, atLeast int) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	s, c := bustest.Start(t), newChain(t, 300)
	b := s.Config()
	b.LeaseTime, b.History = 500*time.Millisecond, 100_000
	f := config.Follow{Start: "0", MaxPerTick: 100}
	if parents {
		f.ID, f.Parent = ids.ID, ids.Parent
	}
	cfg := c.follow(100*time.Millisecond, f)
	pollers := []*running{run(t, cfg, b), run(t, cfg, b)}
	kills, turns := 0, 0
	var ending sync.WaitGroup
	restarts := 0
	for limit := time.Now().Add(pollertest.Patience + time.Duration(atLeast)*2*time.Second); kills < atLeast && time.Now().Before(limit); {
		time.Sleep(time.Duration(dice.IntN(200)) * time.Millisecond)
		c.grow(dice.IntN(10))
		i := slices.IndexFunc(pollers, func(p *running) bool { return p.sources.list()[0].Owned() })
		switch {
		case i < 0:
		case dice.IntN(3) == 0:
			if parents {
				c.reorg(1+dice.IntN(20), 21)
				turns++
			}
		case dice.IntN(6) == 0 && restarts < 2:
			s.Stop()
			s.Restart()
			restarts++
		default:
			pollers[i].link.conn.Load().Close() // what it sends now is lost, and its lease too
			ending.Go(pollers[i].stop)
			pollers[i] = run(t, cfg, b)
			kills++
		}
	}
	want := c.head()
	defer func() {
		for _, p := range pollers {
			if t.Failed() {
				st, _ := json.Marshal(p.Status())
				t.Logf("status: %s", st)
			}
		}
	}()
	pollertest.Eventually(t, "the walk is at the head", func() bool {
		for _, p := range pollers {
			if st := p.Status().Sources[0]; st.Owned && len(st.Polls) == 1 && st.Polls[0].Position != nil && *st.Polls[0].Position == int64(want) && !st.Polls[0].Stale {
				return true
			}
		}
		return false
	})
	ending.Wait()
	l := newLedger(t)
	for _, e := range fromStream(t, s, "eth.blocks") {
		l.read(e)
	}
	l.wantChain("after the kills", c, 0)
	t.Logf("%d events, %d kills, %d restarts of NATS, %d of %d reorganisations seen", l.version, kills, restarts, len(l.turns), turns)
	if kills < atLeast || len(l.hashes) != want+1 {
		t.Errorf("%d kills, %d positions", kills, len(l.hashes))
	}
	if !parents && len(l.turns) > 0 {
		t.Errorf("turns without a reason: %+v", l.turns)
	}
	for _, p := range pollers {
		p.stop()
	}
}
