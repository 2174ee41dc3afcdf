package poller

import (
	"context"
	"errors"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
)

// What a poll tells of itself, and when.

func (p *poll) markStale(reason event.Reason, detail string, now time.Time) {
	if !p.stale || !p.known {
		p.staleSince = now
		if p.good.asOf.IsZero() {
			p.log.Warn("no value yet", "reason", reason, "detail", p.whole.of(detail))
		} else {
			p.log.Warn("value is stale", "reason", reason, "detail", p.whole.of(detail), "age", age(now, p.good.asOf))
		}
	}
	p.known, p.stale, p.reason, p.detail = true, true, reason, detail
}

func (p *poll) markFresh(now time.Time) {
	if p.stale {
		p.log.Info("value is fresh again", "stale_for", age(now, p.staleSince))
	}
	p.known, p.stale, p.reason, p.detail = true, false, "", ""
}

// reflect looks at the source's circuits: while all are open nothing confirms
// the value, so that it is stale even before its own next tick; when one closes
// the poll need not wait for that tick; and somebody has to probe.
func (p *poll) reflect(now time.Time) {
	breaker, _, _ := p.upstreams.breaker()
	switch {
	case breaker != event.Closed && p.known && !p.stale && !p.calling:
		p.markStale(event.BreakerOpen, p.whyOpen(), now)
	case breaker == event.Closed && p.stale && p.reason == event.BreakerOpen && p.extraAt.IsZero():
		p.extraAt = now.Add(p.schedule.start())
	}
	if p.probeAt = p.upstreams.nextProbe(); !p.probeAt.IsZero() {
		p.probeAt = p.probeAt.Add(p.upstreams.probeTurn(p.index, len(p.source.Polls)))
		// What was due and could not be is not tried in a loop.
		if soon := p.triedAt.Add(50 * time.Millisecond); p.probeAt.Before(soon) {
			p.probeAt = soon
		}
		// While another upstream answers, a probe that hangs must not take the time
		// of the poll's own tick; that one is then the probe, and fails over.
		if breaker == event.Closed && later(p.probeAt, now).Add(newPace(p.source, p.config).tick()).After(p.tickAt) {
			p.probeAt = time.Time{}
		}
	}
}

// record is the poll's freshness now.
func (p *poll) record(now time.Time) event.Freshness {
	breaker, probeAt, _ := p.upstreams.breaker()
	f := event.Freshness{
		Poll: p.topic, AsOf: told(p.good.asOf, now), CheckedAt: stamp(now),
		Stale: p.stale, Reason: p.reason, Detail: p.detail,
		Breaker: breaker, ConsecutiveFailures: p.failures,
		IntervalMs: p.config.Interval.Milliseconds(), MaxAgeMs: p.config.MaxAge.Milliseconds(),
	}
	if breaker == event.Open {
		f.NextProbeAt = stamp(probeAt)
	}
	// The time is part of the message id: two records of one millisecond would
	// be one.
	if last := p.stored.fresh; last != nil && !f.CheckedAt.After(last.CheckedAt) && f.CheckedAt.Add(time.Second).After(last.CheckedAt) {
		f.CheckedAt = last.CheckedAt.Add(time.Millisecond)
	}
	return f
}

// next is what there is to say, if anything: the newest value and the newest
// freshness. What came in between while NATS was away is not said.
func (p *poll) next(now time.Time, t *tenure) (job, bool) {
	if p.putting || !p.known || p.retry.left(now) < idle {
		return job{}, false
	}
	j := job{topic: p.topic, ignore: p.ignore, known: p.stored, tenure: t, sort: p.sort, keys: p.keyJobs(now), asOf: p.good.asOf}
	if p.unstored() {
		j.digest, j.slot = p.good.digest, p.good.slot
		j.event = &event.Event{
			Topic: p.topic, Poll: p.topic, Data: p.good.value, Upstream: p.good.upstream,
			ChangedAt: p.good.changedAt, AsOf: told(p.good.asOf, now),
		}
	}
	if f := p.record(now); p.renew || !sameState(&f, p.stored.fresh, t.fence) || p.upstreams.eased(p.stored.circuits) {
		said := f // most of the time there is nothing to say, and nothing to allocate
		j.fresh, j.circuits = &said, p.upstreams.circuits()
	}
	if p.follow != nil {
		p.nextWalk(&j, now)
	} else if !p.stored.alone {
		p.shutOut(&j, now)
	}
	return j, j.event != nil || j.fresh != nil || j.fence != nil || len(j.keys) > 0 || len(j.steps) > 0
}

// unstored says that the stream does not hold the last good value.
func (p *poll) unstored() bool {
	return p.stored.misses(&p.good, p.always)
}

// sameState says that a stored record still tells all there is to tell.
func sameState(f, old *event.Freshness, fence uint64) bool {
	return old != nil && old.Fence == fence &&
		f.Stale == old.Stale && f.Reason == old.Reason && f.Detail == old.Detail &&
		f.Breaker == old.Breaker && f.ConsecutiveFailures == old.ConsecutiveFailures &&
		f.NextProbeAt.Equal(old.NextProbeAt) &&
		f.IntervalMs == old.IntervalMs && f.MaxAgeMs == old.MaxAgeMs
}

// settle learns how a publish went.
func (p *poll) settle(d putDone) {
	now := clock()
	p.stored = d.stored
	if f := p.stored.found; f != nil && f.freshSeq == 0 && d.job.known.guard != 0 {
		p.host.streamAnew()
	}
	// If it is stored all the same, it is not the last word.
	p.renew = p.renew || d.err != nil && d.job.fresh != nil
	var found *remains
	if p.follow != nil {
		p.settleWalk(d, now)
	} else if f := p.stored.found; f != nil {
		// The first look may have been at a replica that lagged behind.
		p.good.restore(*f, p.stored.digest, now)
		p.stored.recognise(&p.good, f.event, now)
		found = f
		if f.freshSeq == 0 { // the stream was made anew, and holds no keys either
			for _, k := range p.keys {
				k.held.has = false
			}
		}
		p.stored.found = nil
	}
	p.settleKeys(d.job.keys, now)
	if found != nil && found.keys != nil {
		p.learnKeys(*found, now)
	}
	switch {
	case d.err == nil:
		p.retry = backoff{}
		if d.job.fresh != nil {
			p.saidAt = now
		}
		if d.job.fresh != nil || d.job.event != nil {
			p.left = d.job.asOf
		}
	case errors.Is(d.err, errAgain):
		p.retry.stumble(now)
	case errors.Is(d.err, errSlotTaken):
		p.good.slot = stamp(now)
		p.retry.stumble(now)
	case errors.Is(d.err, errFenced), errors.Is(d.err, errExpired):
		p.host.lose(d.err)
	case errors.Is(d.err, context.Canceled): // the tenure is over
	default:
		p.retry.fail(now)
		p.host.complain(d.err)
	}
}

// idle is a wait that does not end by itself.
const idle = time.Hour

// backoff spaces the attempts to publish while they fail: 250 ms, doubled up
// to 4 s. The zero value is ready.
type backoff struct {
	at       time.Time // not before
	n        int       // failures in a row
	stumbles int       // attempts in a row that only found the stream changed
}

func (b *backoff) failing() bool { return b.n > 0 }

func (b *backoff) fail(now time.Time) {
	b.at = now.Add(250 * time.Millisecond << min(b.n, 4))
	b.n++
}

// stumble is no failure at first: the next attempt knows better.
func (b *backoff) stumble(now time.Time) {
	if b.stumbles++; b.stumbles > 3 {
		b.fail(now)
	}
}

// before is the earlier of at and the next attempt, if there is one to wait for.
func (b *backoff) before(at, now time.Time) time.Time {
	if b.at.After(now) && b.at.Before(at) {
		return b.at
	}
	return at
}

// left is how long to wait; idle when there is nothing to wait for.
func (b *backoff) left(now time.Time) time.Duration {
	if d := b.at.Sub(now); d > 0 {
		return d
	}
	return idle
}

// shutOut adds to a job the record that shuts out what is on its way. What
// there is to say is it, unless that speaks of a value which the stream may not
// hold: then the record says of it what was said last.
func (p *poll) shutOut(j *job, now time.Time) {
	if j.event == nil && j.fresh == nil && len(j.keys) == 0 && p.stored.fresh == nil {
		return // there is nothing to say yet
	}
	j.keyed = p.shape.keyed() || len(p.keys) > 0
	if j.event == nil && len(j.keys) == 0 && !p.good.own && j.fresh != nil {
		j.fence = j.fresh
		return
	}
	f := p.record(now)
	f.AsOf = told(p.left, now)
	if p.renew = true; !f.Stale && now.Sub(p.left) > p.config.MaxAge {
		f.Stale, f.Reason = true, event.PollerSilent
	}
	j.fence, j.circuits = &f, p.upstreams.circuits()
}
