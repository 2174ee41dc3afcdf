package hub

import (
	"slices"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
)

// MinHz and MaxHz bound the rates that a client can ask for, in events per second
// and topic.
const (
	MinHz = 0.01
	MaxHz = 1000
)

// A pacer holds a feed's events back to a rate. At each tick the newest event of
// every topic that changed since the last tick is appended, in the stream's order,
// and then the freshness that was held with them.
type pacer struct {
	period time.Duration
	last   time.Time                // tick
	seq    uint64                   // every event up to here was appended, or is out of date
	topics map[*topicState]struct{} // held
	sent   map[*topicState]Event    // as of the last tick
	polls  map[*pollState]event.Freshness
	timer  *time.Timer
	armed  bool
}

func newPacer(hz float64) *pacer {
	return &pacer{
		period: time.Duration(float64(time.Second) / hz), topics: map[*topicState]struct{}{},
		sent: map[*topicState]Event{}, polls: map[*pollState]event.Freshness{},
	}
}

// hold keeps a topic's newest event for the next tick.
func (v *View) hold(f *Feed, t *topicState, now time.Time) {
	p := f.pace
	p.topics[t] = struct{}{}
	if p.armed {
		return
	}
	p.armed = true
	wait := max(0, p.last.Add(p.period).Sub(now))
	if p.timer == nil {
		lock := v.lock
		p.timer = time.AfterFunc(wait, func() { lock(func(v *View) { v.tick(f, v.now()) }) })
		return
	}
	p.timer.Reset(wait)
}

// tick appends what was held. After the feed's end it does nothing.
func (v *View) tick(f *Feed, now time.Time) {
	p := f.pace
	p.armed, p.last, p.seq = false, now, v.seq
	held := make([]*topicState, 0, len(p.topics))
	for t := range p.topics {
		if t.last != nil {
			held = append(held, t)
		}
	}
	slices.SortFunc(held, func(a, b *topicState) int { return bySeq(a.event(), b.event()) })
	for _, t := range held {
		frame := v.liveFrame(t.event(), now)
		f.append(v.in(&frames{frame: &frame, packed: t.packed}, f.Format), t.seq, now)
		p.sent[t] = t.event()
		p.seq = max(p.seq, t.seq) // in the middle of a batch the hub's position is before it
	}
	for poll, fr := range p.polls {
		v.fresh++
		poll.publishedAt, f.log.mark.Fresh = v.fresh, v.fresh
		f.append(v.in(&frames{frame: &wire.ServerFrame{Fresh: &fr}}, f.Format), 0, now)
	}
	clear(p.topics)
	clear(p.polls)
}

// holdFresh keeps a renewal behind the events it confirms, and reports whether it
// did. A change of state waits for nothing: the events are appended at once.
func (v *View) holdFresh(f *Feed, p *pollState, fr event.Freshness, changed bool, now time.Time) bool {
	for t := range f.pace.topics {
		if t.poll != p {
			continue
		}
		if changed {
			v.tick(f, now)
			return false
		}
		f.pace.polls[p] = fr
		return true
	}
	return false
}

// Settle appends what a feed holds back, before a connection enters or leaves it.
// A snapshot shows the held values too, and a connection that leaves would never
// get them.
func (v *View) Settle(f *Feed) {
	if f.pace != nil && len(f.pace.topics) > 0 {
		v.tick(f, v.now())
	}
}

// stop ends the timer of a feed that has no connection any more.
func (p *pacer) stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}
