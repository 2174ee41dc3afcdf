package runner

import (
	"fmt"
	"slices"
	"sync"
	"testing/synctest"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/record"
)

// How a crowd's poller comes and goes.

// restart ends a life, in peace or not, and begins the next one a while later
// under a clock that may have been set meanwhile.
func (w *crowd) restart() {
	peace := w.r.IntN(2) == 0
	w.end(peace)
	for _, u := range w.ups {
		// A crash in the middle of a tick leaves no time to tell.
		calling := !peace && slices.ContainsFunc(w.polls, func(p *crowdPoll) bool { return p.calling && len(p.asked) > 1 })
		if u.rule.state == event.Closed && u.known.streak != u.rule.streak && !calling {
			w.t.Errorf("%s had %d failures when the poller went, %d were told", u.name, u.rule.streak, u.known.streak)
		}
	}
	longest := time.Duration(0)
	left := map[string]record.Recovered{}
	for _, p := range w.polls {
		p.sent = p.told.AsOf
		if p.seq[0] > p.seq[1] {
			p.sent = p.event.AsOf
		}
		p.failures = [2]int{p.told.ConsecutiveFailures, p.told.ConsecutiveFailures}
		p.lost = p.event == nil || string(p.event.Data) != fmt.Sprintf(`"%d.%d"`, p.index, p.value)
		longest = max(longest, w.stage().r.Polls[p.index].Config.MaxAge)
	}
	time.Sleep(time.Duration(w.r.Float64() * 5 * float64(longest)))
	var step time.Duration
	if w.r.IntN(2) == 0 {
		step = []time.Duration{-time.Hour, -3 * time.Second, 3 * time.Second, time.Hour}[w.r.IntN(4)]
	}
	w.life++
	for _, p := range w.polls {
		left[w.stage().r.Polls[p.index].Topic] = p.left(step)
	}
	if w.breaker != nil {
		b := *w.breaker
		b.At, b.NextProbeAt = stepped(b.At, step), stepped(b.NextProbeAt, step)
		w.breaker, w.memos = &b, steppedAll(w.memos, step)
	}
	for _, u := range w.ups {
		if u.rule.state == event.Closed {
			u.rule.streak = u.known.streak
		}
		u.rule.until = u.known.until
		u.rule.restarts(time.Now(), step)
		u.known = u.rule
	}
	w.begin(left)
}

func stepped(at time.Time, step time.Duration) time.Time {
	if at.IsZero() {
		return at
	}
	return at.Add(-step)
}

func steppedAll(memos []event.Circuit, step time.Duration) []event.Circuit {
	memos = slices.Clone(memos)
	for i := range memos {
		m := &memos[i]
		m.At, m.NextProbeAt, m.WaitUntil = stepped(m.At, step), stepped(m.NextProbeAt, step), stepped(m.WaitUntil, step)
	}
	return memos
}

// left is what the last life left in the stream, seen by a clock that was set
// by step.
func (p *crowdPoll) left(step time.Duration) (r record.Recovered) {
	if p.event != nil {
		e := *p.event
		e.AsOf, e.ChangedAt = stepped(e.AsOf, step), stepped(e.ChangedAt, step)
		r.Event, r.EventSeq, p.event = &e, p.seq[0], &e
	}
	p.memos = steppedAll(p.memos, step)
	if p.seq[1] > 0 {
		f := p.told
		f.AsOf, f.CheckedAt, f.NextProbeAt = stepped(f.AsOf, step), stepped(f.CheckedAt, step), stepped(f.NextProbeAt, step)
		r.Fresh, r.FreshSeq, r.Circuits, p.told = &f, p.seq[1], p.memos, f
	}
	p.sent = stepped(p.sent, step)
	p.behind += max(0, -step)
	return r
}

func (w *crowd) begin(left map[string]record.Recovered) {
	s := w.stage()
	s.T, w.from, w.open = w.t, time.Now(), time.Time{}
	for _, p := range w.polls {
		p.called, p.calling, p.next, p.maybe, p.begun = false, false, -1, false, time.Time{}
		p.reason = p.told.Reason
		p.waiting = slices.ContainsFunc(w.ups, func(u *crowdUpstream) bool { return u.rule.until.After(w.from) })
	}
	for _, u := range w.ups {
		u.turns, u.told, u.calls = nil, nil, 0
	}
	w.look(w.from)
	quiet, told := make(chan struct{}), make(chan struct{})
	w.hush = sync.OnceFunc(func() { close(quiet); <-told })
	fence := uint64(7 + w.life)
	go func() { w.tellTurns(s, fence, quiet); close(told) }()
	s.startFrom(fence, left, bus.Message{Breaker: w.breaker, Circuits: w.memos})
	synctest.Wait()
}

// end stops the poller, or lets it crash, and compares the transitions.
func (w *crowd) end(peace bool) {
	s := w.stage()
	if !peace {
		s.cut()
	}
	s.end()
	w.hush()
	for _, u := range w.ups {
		if !slices.Equal(u.told, u.turns) {
			w.t.Errorf("transitions of %s in life %d are %q, want %q", u.name, w.life, u.told, u.turns)
		}
	}
}
