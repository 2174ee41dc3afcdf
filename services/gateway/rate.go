package gateway

import (
	"slices"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
)

// The rates that a client can ask to be kept below, in events per second and
// topic.
const (
	minHz = 0.01
	maxHz = 1000
)

// A pacer holds a feed's events back to a rate: at each tick the newest event
// of every topic that changed since the last one, in the stream's order, and
// then the freshness that was held with them. All under the hub's mutex.
type pacer struct {
	period time.Duration
	last   time.Time                // tick
	seq    uint64                   // every event up to here was appended, or is out of date
	topics map[*topicState]struct{} // held
	sent   map[*topicState]past     // as of the last tick
	polls  map[*pollState]event.Freshness
	timer  *time.Timer
	armed  bool
}

func newPacer(hz float64) *pacer {
	return &pacer{
		period: time.Duration(float64(time.Second) / hz),
		topics: map[*topicState]struct{}{}, sent: map[*topicState]past{}, polls: map[*pollState]event.Freshness{},
	}
}

// hold keeps a topic's newest event for the next tick.
func (h *hub) hold(f *feed, t *topicState, now time.Time) {
	p := f.pace
	p.topics[t] = struct{}{}
	if p.armed {
		return
	}
	p.armed = true
	wait := max(0, p.last.Add(p.period).Sub(now))
	if p.timer == nil {
		p.timer = time.AfterFunc(wait, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.tick(f, h.now())
		})
		return
	}
	p.timer.Reset(wait)
}

// tick appends what was held. After the feed's end it does nothing.
func (h *hub) tick(f *feed, now time.Time) {
	p := f.pace
	p.armed, p.last, p.seq = false, now, h.seq
	held := make([]*topicState, 0, len(p.topics))
	for t := range p.topics {
		if t.last != nil {
			held = append(held, t)
		}
	}
	slices.SortFunc(held, func(a, b *topicState) int {
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	for _, t := range held {
		frame := h.liveFrame(past{t.last, t.seq}, now)
		f.append(h.framed(&once{frame: &frame, shrunk: t.shrunk}, f.format), t.seq, now)
		p.sent[t] = past{t.last, t.seq}
		p.seq = max(p.seq, t.seq) // in the middle of a batch the hub's position is before it
	}
	for poll, fr := range p.polls {
		h.told++
		poll.toldAt, f.told = h.told, h.told
		f.append(h.framed(&once{frame: &wire.ServerFrame{Fresh: &fr}}, f.format), 0, now)
	}
	clear(p.topics)
	clear(p.polls)
}

// holdFresh keeps a renewal behind the events it confirms, and reports whether
// it did. A change of state waits for nothing: the events go before it at once.
func (h *hub) holdFresh(f *feed, p *pollState, fr event.Freshness, changed bool, now time.Time) bool {
	for t := range f.pace.topics {
		if t.poll != p {
			continue
		}
		if changed {
			h.tick(f, now)
			return false
		}
		f.pace.polls[p] = fr
		return true
	}
	return false
}

// settle appends what is held, before somebody enters or leaves the feed: a
// snapshot shows the held values too, and who leaves would never get them.
func (h *hub) settle(f *feed, now time.Time) {
	if f.pace != nil && len(f.pace.topics) > 0 {
		h.tick(f, now)
	}
}

// stop ends the timer of a feed that nobody reads any more.
func (p *pacer) stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}
