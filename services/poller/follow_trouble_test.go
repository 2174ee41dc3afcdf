package poller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

// While NATS is away the walk waits, and goes on where the stream is.
func TestFollowWithoutNATS(t *testing.T) {
	s, c := bustest.Start(t), newChain(t, 10)
	b := s.Config()
	b.History = 10_000
	f := ids
	f.MaxPerTick = 5
	p := run(t, c.follow(100*time.Millisecond, f), b)
	position := func() int64 {
		if st := p.Status().Sources[0]; len(st.Polls) == 1 && st.Polls[0].Position != nil {
			return *st.Polls[0].Position
		}
		return -1
	}
	pollertest.Eventually(t, "at the head", func() bool { return position() == 9 })
	s.Stop()
	c.grow(200)
	pollertest.Eventually(t, "something is found and not stored", func() bool { return len(c.counts()) > 10 })
	time.Sleep(500 * time.Millisecond)
	if n := len(c.counts()); n > 15 {
		t.Errorf("%d positions were asked for while 10 are stored and 5 may wait", n)
	}
	if st := p.Status().Sources[0].Polls[0]; !st.Unpublished {
		t.Errorf("status does not say that something waits: %+v", st)
	}
	s.Restart()
	pollertest.Eventually(t, "at the head again", func() bool { return position() == int64(c.head()) })
	p.stop()
	l := newLedger(t)
	for _, e := range fromStream(t, s, "eth.blocks") {
		l.read(e)
	}
	l.wantChain("after NATS was away", c, 0)
}

// A stream that is made anew is no reason to begin anew.
func TestFollowStreamMadeAnew(t *testing.T) {
	s, c := bustest.Start(t), newChain(t, 10)
	w, l := watch(t, s), newLedger(t)
	run(t, c.follow(100*time.Millisecond, ids), s.Config())
	w.reaches(l, c)
	_, js, names := s.JetStream()
	if err := js.DeleteStream(t.Context(), names.Stream()); err != nil {
		t.Fatal(err)
	}
	c.grow(3)
	w.reaches(l, c)
	l.wantChain("made anew", c, 0)
	if len(l.turns) != 0 {
		t.Errorf("turns %+v", l.turns)
	}
}

// A topic that is purged while nobody walks, and its freshness with it, begins
// where follow.start says.
func TestFollowPurged(t *testing.T) {
	s, c := bustest.Start(t), newChain(t, 10)
	w, l := watch(t, s), newLedger(t)
	cfg := c.follow(100*time.Millisecond, ids)
	p := run(t, cfg, s.Config())
	w.reaches(l, c)
	p.stop()
	_, js, names := s.JetStream()
	stream, err := js.Stream(t.Context(), names.Stream())
	if err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{names.In("eth.blocks"), names.InFresh("eth.blocks")} {
		if err := stream.Purge(t.Context(), jetstream.WithPurgeSubject(subject)); err != nil {
			t.Fatal(err)
		}
	}
	run(t, cfg, s.Config())
	first := w.until("an event", func(m bus.Message) bool { return m.Event != nil }).Event
	if *first.Position != 0 {
		t.Errorf("begins at %d", *first.Position)
	}
}

// A head that stands still is told, and so is an upstream that knows better
// than its answers.
func TestFollowHeadStandsStill(t *testing.T) {
	s, c := bustest.Start(t), newChain(t, 5)
	w, l := watch(t, s), newLedger(t)
	cfg := c.follow(100*time.Millisecond, ids)
	poll := cfg.Sources["eth"].Polls["blocks"]
	poll.MustAdvance.Within = 400 * time.Millisecond
	cfg.Sources["eth"].Polls["blocks"] = poll
	run(t, cfg, s.Config())
	f := w.tells(l, "stands still", func(f *event.Freshness) bool { return f.Stale && f.Reason == event.NotAdvancing })
	if f.Detail != "answers, but has not advanced for more than 400ms (mustAdvance)" || l.position != 4 {
		t.Errorf("at %d: %+v", l.position, f)
	}
	c.grow(1)
	w.reaches(l, c)
	l.wantChain("advanced", c, 0)
}

// An upstream that takes its time for each position is asked for as many as
// the tick has time for; that is no failure.
func TestFollowSlowUpstream(t *testing.T) {
	s, c := bustest.Start(t), newChain(t, 12)
	c.set(func() { c.delay = 60 * time.Millisecond })
	w, l := watch(t, s), newLedger(t)
	f := ids
	f.MaxPerTick = 50
	run(t, c.follow(500*time.Millisecond, f), s.Config())
	w.reaches(l, c)
	l.wantChain("slow", c, 0)
	perTick := map[time.Time]int{}
	for _, m := range w.seen {
		if m.Fresh != nil && m.Fresh.ConsecutiveFailures > 0 {
			t.Errorf("a failure: %+v", m.Fresh)
		}
		if m.Event != nil {
			perTick[m.Event.AsOf]++
		}
	}
	for at, n := range perTick {
		if n > 4 { // of 60 ms each, in 200 ms
			t.Errorf("%d positions in the tick of %v", n, at)
		}
	}
}

// A walk goes on under another configuration; a poll becomes a walk, and again
// a poll.
func TestFollowReload(t *testing.T) {
	s, c := bustest.Start(t), newChain(t, 10)
	w, l := watch(t, s), newLedger(t)
	without := c.follow(100*time.Millisecond, config.Follow{Start: "0"})
	p := run(t, without, s.Config())
	w.reaches(l, c)
	if _, err := p.Reload(t.Context(), c.follow(100*time.Millisecond, ids)); err != nil {
		t.Fatal(err)
	}
	pollertest.Eventually(t, "reloaded", func() bool { return strings.Contains(p.log.String(), "polling goes on as configured now") })
	c.grow(2)
	w.reaches(l, c)
	c.reorg(3, 1)
	w.reaches(l, c)
	l.wantChain("reloaded", c, 0)
	if len(l.turns) != 1 {
		t.Errorf("turns %+v", l.turns)
	}
	plain := c.follow(100*time.Millisecond, ids)
	poll := plain.Sources["eth"].Polls["blocks"]
	poll.Follow, poll.Params = nil, []any{"0x1"}
	plain.Sources["eth"].Polls["blocks"] = poll
	if _, err := p.Reload(t.Context(), plain); err != nil {
		t.Fatal(err)
	}
	e := w.until("an event without a position", func(m bus.Message) bool { return m.Event != nil && m.Event.Position == nil }).Event
	if e.Version != l.version+1 || !strings.Contains(string(e.Data), `"0x1"`) {
		t.Errorf("event %+v after version %d", e, l.version)
	}
}

// What a walk asks of an upstream is held against its quota.
func TestFollowQuota(t *testing.T) {
	cfg := func(most int) config.Config {
		c := config.Config{Sources: map[string]config.Source{"s": {Upstreams: []string{"http://u/"}, MaxCallsPerMinute: most, Polls: map[string]config.Poll{
			"p": {Interval: 2 * time.Second, Method: "m", Params: []any{"{{ $position }}"}, Follow: &config.Follow{Head: config.Head{Method: "h"}, MaxPerTick: 20}},
		}}}}
		return c
	}
	c := cfg(630)
	if err := c.Err(); err != nil {
		t.Error(err)
	}
	c = cfg(300)
	want := "sources.s.maxCallsPerMinute: 300 are fewer than the polls may need in a minute, which is 630; use 630 or more, or follow.maxPerTick of 9 or less, or an interval of 4.29s or more"
	if err := c.Err(); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("have %v\nwant %s", err, want)
	}
	c = cfg(3)
	if err := c.Err(); err == nil || !strings.Contains(err.Error(), "cannot do with less than 21") {
		t.Errorf("have %v", err)
	}

	// And at run time: a quota that is used up ends the walk of a tick.
	s, chain := bustest.Start(t), newChain(t, 100)
	w, l := watch(t, s), newLedger(t)
	p := run(t, chain.follow(100*time.Millisecond, ids), s.Config())
	p.sources.list()[0].runner.Load().Upstreams.List[0].Quota.SetLimit(30)
	f := w.tells(l, "the quota is used up", func(f *event.Freshness) bool { return f.Stale && strings.Contains(f.Detail, "maxCallsPerMinute") })
	if f.Breaker != event.Closed || f.ConsecutiveFailures != 0 && f.Reason != event.UpstreamError {
		t.Errorf("freshness %+v", f)
	}
	if n := len(chain.counts()); n > 30 {
		t.Errorf("%d positions asked for with a quota of 30 calls", n)
	}
	p.sources.list()[0].runner.Load().Upstreams.List[0].Quota.SetLimit(0)
	w.reaches(l, chain)
	l.wantChain(fmt.Sprint("with ", f.Detail), chain, 0)
}
