package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"

	sdk "github.com/pollcast/pollcast/pkg/client"
)

// sdkWitness uses the Go SDK as a program does: it subscribes once and reads. The
// SDK connects, moves and resumes by itself.
type sdkWitness struct {
	name     string
	world    *world
	patterns []string
	opts     sdk.SubscribeOptions
	rng      *rand.Rand

	mu      sync.Mutex
	events  []sdkEvent
	last    map[string]uint64
	final   map[string]sdk.Freshness
	conns   int
	resumes int
	refused map[string]int
	ended   error
}

// sdkEvent is an event with the gap that the SDK reported before it.
type sdkEvent struct {
	topic        string
	seq, version uint64
	data         uint64
	deleted      bool
	gap          uint64 // missing events before it, as the SDK reported
}

func newSDKWitness(w *world, i int) *sdkWitness {
	rng := rand.New(rand.NewPCG(w.seed, uint64(5000+i)))
	s := &sdkWitness{
		world: w, rng: rng, patterns: []string{w.pattern(rng), w.pattern(rng)},
		last: map[string]uint64{}, final: map[string]sdk.Freshness{}, refused: map[string]int{},
	}
	if i%3 == 2 {
		s.opts.MaxHz = 5
	}
	s.name = fmt.Sprintf("sdk %d, %v, maxHz %v", i, s.patterns, s.opts.MaxHz)
	return s
}

func (s *sdkWitness) live(ctx context.Context) {
	gateways := s.world.gateways
	c, err := sdk.New(sdk.Options{URL: "ws://" + gateways[0].addr, DialContext: anyGateway(s.world)})
	if err != nil {
		s.ended = err
		return
	}
	defer c.Close()
	sub, err := c.Subscribe(ctx, s.patterns, s.opts)
	if err != nil {
		s.ended = err
		return
	}
	gaps := map[string]uint64{}
	for u := range sub.Updates() {
		s.mu.Lock()
		switch u := u.(type) {
		case *sdk.Event:
			s.events = append(s.events, sdkEvent{u.Topic, u.Seq, u.Version, hash(u.Data), u.Deleted, gaps[u.Topic]})
			delete(gaps, u.Topic)
			s.last[u.Topic] = u.Seq
		case *sdk.Gap:
			gaps[u.Topic] = u.Missed()
		case *sdk.Resumed:
			s.resumes++
			if !u.Complete {
				s.refused["sdk "+u.Reason]++
			}
		case *sdk.Connection:
			if u.Connected {
				s.conns++
			}
		case *sdk.Freshness:
			s.final[u.Poll] = *u
		}
		s.mu.Unlock()
	}
	if ctx.Err() == nil {
		s.ended = fmt.Errorf("the subscription ended: %w", sub.Err())
	}
}

func (s *sdkWitness) caughtUp() error {
	l := s.world.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for topic, events := range l.topics {
		last := events[len(events)-1]
		if !last.deleted && anyMatches(s.patterns, topic) && s.last[topic] < last.seq {
			return fmt.Errorf("%s: %s stands at %d, the last is at %d", s.name, topic, s.last[topic], last.seq)
		}
	}
	rush := s.world.rush
	rush.mu.Lock()
	defer rush.mu.Unlock()
	for topic, want := range rush.last {
		have := s.final[topic]
		if anyMatches(s.patterns, topic) && (!have.AsOf.Equal(want.AsOf) || have.Stale != want.Stale ||
			have.Reason != want.Reason) {
			return fmt.Errorf("%s: the freshness of %s is %+v, the publisher's last is %+v", s.name, topic, have, want)
		}
	}
	return nil
}

// judge compares the updates with the ledger, whose mutex is held: each event
// once and in order, and every missing event was reported.
func (s *sdkWitness) judge(l *ledger) (broken []string) {
	if s.ended != nil {
		broken = append(broken, s.ended.Error())
	}
	seen := map[string]sdkEvent{}
	for _, e := range s.events {
		was, known := l.at(e.topic, e.seq)
		before, again := seen[e.topic]
		seen[e.topic] = e
		switch {
		case len(broken) >= maxBroken:
		case e.deleted && (!known || !was.deleted):
			// The SDK made this deletion itself: it had the topic, and a complete
			// snapshot has not. It has the last event's number.
		case !known && !l.gone(e.topic, e.seq):
			broken = append(broken, fmt.Sprintf("%+v: the stream holds no such event", e))
		case known && (was.version != e.version || was.deleted != e.deleted || !e.deleted && was.data != e.data):
			broken = append(broken, fmt.Sprintf("%+v: the stream holds %+v", e, was))
		case !again:
		case e.seq <= before.seq:
			broken = append(broken, fmt.Sprintf("%+v comes after %+v", e, before))
		case s.opts.MaxHz > 0 || e.deleted || before.deleted:
		case e.version != before.version+1+e.gap:
			broken = append(broken, fmt.Sprintf("%+v comes after %+v", e, before))
		}
	}
	return broken
}

// anyGateway dials another gateway every time, as behind a balancer.
func anyGateway(w *world) func(context.Context, string, string) (net.Conn, error) {
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(w.seed, 77))
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		mu.Lock()
		addr := w.gateways[rng.IntN(len(w.gateways))].addr
		mu.Unlock()
		ctx, cancel := context.WithTimeout(ctx, dialPatience)
		defer cancel()
		return netDial(false)(ctx, network, addr)
	}
}
