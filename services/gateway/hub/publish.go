package hub

import (
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/trust"
	"github.com/pollcast/pollcast/pkg/wire"
)

// clockLogEvery is the shortest time between two log lines about a clock that is
// ahead.
const clockLogEvery = 10 * time.Minute

// publish appends a frame to feeds.
func (v *View) publish(feeds map[*Feed]struct{}, frame *wire.ServerFrame, now time.Time) {
	if len(feeds) == 0 {
		return
	}
	fs := frames{frame: frame}
	for f := range feeds {
		f.append(v.in(&fs, f.Format), 0, now)
	}
}

// publishEvent appends a topic's last event to the feeds that want it.
func (v *View) publishEvent(t *topicState, now time.Time) {
	fs := frames{packed: t.packed}
	for f := range t.feeds {
		if f.pace != nil {
			if !t.last.Deleted {
				v.hold(f, t, now)
				continue
			}
			delete(f.pace.topics, t)
			v.tick(f, now) // a deletion is published at once, after what was before it
		}
		if fs.frame == nil {
			frame := v.liveFrame(t.event(), now)
			fs.frame = &frame
		}
		f.append(v.in(&fs, f.Format), t.seq, now)
		if f.pace != nil {
			f.pace.seq = max(f.pace.seq, t.seq)
		}
	}
}

// publishFresh appends to the feeds how far a poll's values can be trusted now.
func (v *View) publishFresh(p *pollState, fr event.Freshness, now time.Time) {
	changed := fr.Stale != p.published.Stale || fr.Reason != p.published.Reason
	v.fresh++
	p.published, p.publishedAt = fr, v.fresh
	fs := frames{frame: &wire.ServerFrame{Fresh: &fr}}
	for f := range p.feeds {
		if changed {
			f.shown = shownOpenings{} // they would show newcomers what is no longer true
		}
		if f.pace != nil && v.holdFresh(f, p, fr, changed, now) {
			continue
		}
		f.append(v.in(&fs, f.Format), 0, now)
		f.log.mark.Fresh = v.fresh
	}
}

// Sweep publishes that polls have become silent. A silent poll is found within
// maxAge + silenceGrace + the sweep's period.
func (h *Hub) Sweep(now time.Time) { h.With(func(v *View) { v.judgeAll(now) }) }

// judgeAll publishes the freshness of every poll that changed without a record.
func (v *View) judgeAll(now time.Time) {
	stale := 0
	var ahead *pollState // whose poller's clock is ahead most
	for _, p := range v.polls {
		if ahead == nil || p.lag.Ahead() > ahead.lag.Ahead() {
			ahead = p
		}
		f := p.fresh(now, v.link.down)
		if f.Stale {
			stale++
		}
		if p.record == nil && !f.Stale {
			continue // its first record is on its way
		}
		if differs(p.published, f) {
			v.publishFresh(p, f, now)
		}
	}
	v.reportAhead(ahead, now)
	v.Metrics.PollsStale.Set(float64(stale))
	v.Metrics.Polls.Set(float64(len(v.polls)))
	v.Metrics.Topics.Set(float64(len(v.topics)))
	v.Metrics.Feeds.Set(float64(len(v.feeds)))
}

// reportAhead reports by how much a poller's clock is ahead of this gateway's: an
// age is a difference of two clocks, and too small by that.
func (v *View) reportAhead(p *pollState, now time.Time) {
	if p == nil {
		return
	}
	d := p.lag.Ahead()
	v.Metrics.ClockAhead.Set(d.Seconds())
	if d > trust.ClocksAgree && v.clockLog.Pass(now, clockLogEvery) > 0 {
		v.Log.Warn("a poller's clock is ahead of this gateway's: values look too young by that; keep both in step with NTP",
			"poll", p.name, "ahead", d.Round(time.Millisecond))
	}
}
