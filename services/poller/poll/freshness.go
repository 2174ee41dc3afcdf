package poll

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/lease"
	"github.com/pollcast/pollcast/services/poller/record"
)

// What a poll tells of itself, and when.

func (p *Poll) markStale(reason event.Reason, detail string, now time.Time) {
	if !p.stale || !p.known {
		p.staleSince = now
		if p.Good.AsOf.IsZero() {
			p.Log.Warn("no value yet", "reason", reason, "detail", p.whole.For(detail))
		} else {
			p.Log.Warn("value is stale", "reason", reason, "detail", p.whole.For(detail), "age", age(now, p.Good.AsOf))
		}
	}
	p.known, p.stale, p.reason, p.detail = true, true, reason, detail
}

func (p *Poll) markFresh(now time.Time) {
	if p.stale {
		p.Log.Info("value is fresh again", "stale_for", age(now, p.staleSince))
	}
	p.known, p.stale, p.reason, p.detail = true, false, "", ""
}

// reflect looks at the source's circuits: while all are open nothing confirms
// the value, so that it is stale even before its own next tick; when one closes
// the poll need not wait for that tick; and somebody has to probe.
func (p *Poll) reflect(now time.Time) {
	breaker, _, _ := p.Upstreams.State()
	switch {
	case breaker != event.Closed && p.known && !p.stale && !p.calling:
		p.markStale(event.BreakerOpen, p.whyOpen(), now)
	case breaker == event.Closed && p.stale && p.reason == event.BreakerOpen && p.extraAt.IsZero():
		p.extraAt = now.Add(p.Schedule.Start())
	}
	if p.probeAt = p.Upstreams.NextProbe(); !p.probeAt.IsZero() {
		p.probeAt = p.probeAt.Add(p.Upstreams.ProbeDelay(p.Index, len(p.Source.Polls)))
		// What was due and could not be is not tried in a loop.
		if soon := p.triedAt.Add(50 * time.Millisecond); p.probeAt.Before(soon) {
			p.probeAt = soon
		}
		// While another upstream answers, a probe that hangs must not take the time
		// of the poll's own tick; that one is then the probe, and fails over.
		if breaker == event.Closed && clock.Later(p.probeAt, now).Add(config.NewPace(p.Source, p.Config).Tick()).After(p.tickAt) {
			p.probeAt = time.Time{}
		}
	}
}

// record is the poll's freshness now.
func (p *Poll) record(now time.Time) event.Freshness {
	breaker, probeAt, _ := p.Upstreams.State()
	f := event.Freshness{
		Poll: p.Topic, AsOf: clock.WallTime(p.Good.AsOf, now), CheckedAt: clock.Stamp(now),
		Stale: p.stale, Reason: p.reason, Detail: p.detail,
		Breaker: breaker, ConsecutiveFailures: p.failures,
		IntervalMs: p.Config.Interval.Milliseconds(), MaxAgeMs: p.Config.MaxAge.Milliseconds(),
	}
	if breaker == event.Open {
		f.NextProbeAt = clock.Stamp(probeAt)
	}
	// The time is part of the message id: two records of one millisecond would
	// be one.
	if last := p.Stored.Fresh; last != nil && !f.CheckedAt.After(last.CheckedAt) && f.CheckedAt.Add(time.Second).After(last.CheckedAt) {
		f.CheckedAt = last.CheckedAt.Add(time.Millisecond)
	}
	return f
}

// next is what there is to say, if anything: the newest value and the newest
// freshness. What came in between while NATS was away is not said.
func (p *Poll) next(now time.Time, t *lease.Tenure) (record.Job, bool) {
	if p.putting || !p.known || p.retry.Left(now) < record.Idle {
		return record.Job{}, false
	}
	j := record.Job{Topic: p.Topic, Ignore: p.Ignore, Known: p.Stored, Tenure: t, Sort: p.sort, Keys: p.keyJobs(now), AsOf: p.Good.AsOf}
	if p.Unstored() {
		j.Digest, j.Slot = p.Good.Digest, p.Good.Slot
		j.Event = &event.Event{
			Topic: p.Topic, Poll: p.Topic, Data: p.Good.Value, Upstream: p.Good.Upstream,
			ChangedAt: p.Good.ChangedAt, AsOf: clock.WallTime(p.Good.AsOf, now),
		}
	}
	if f := p.record(now); p.renew || !sameState(&f, p.Stored.Fresh, t.Fence) || p.Upstreams.Eased(p.Stored.Circuits) {
		said := f // most of the time there is nothing to say, and nothing to allocate
		j.Fresh, j.Circuits = &said, p.Upstreams.Memos()
	}
	if p.Follow != nil {
		p.nextWalk(&j, now)
	} else if !p.Stored.Synced {
		p.shutOut(&j, now)
	}
	return j, j.Event != nil || j.Fresh != nil || j.Fence != nil || len(j.Keys) > 0 || len(j.Steps) > 0
}

// unstored says that the stream does not hold the last good value.
func (p *Poll) Unstored() bool {
	return p.Stored.Misses(&p.Good, p.Always)
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
func (p *Poll) Settle(d PutDone) {
	now := clock.Now()
	p.Stored = d.Stored
	if f := p.Stored.Recovered; f != nil && f.FreshSeq == 0 && d.job.Known.Guard != 0 {
		p.Host.StreamAnew()
	}
	// If it is stored all the same, it is not the last word.
	p.renew = p.renew || d.Err != nil && d.job.Fresh != nil
	var found *record.Recovered
	if p.Follow != nil {
		p.settleWalk(d, now)
	} else if f := p.Stored.Recovered; f != nil {
		// The first look may have been at a replica that lagged behind.
		p.Good.Restore(*f, p.Stored.Digest, now)
		p.Stored.Recognise(&p.Good, f.Event, now)
		found = f
		if f.FreshSeq == 0 { // the stream was made anew, and holds no keys either
			for _, k := range p.Keys {
				k.held.Has = false
			}
		}
		p.Stored.Recovered = nil
	}
	p.settleKeys(d.job.Keys, now)
	if found != nil && found.Keys != nil {
		p.learnKeys(*found, now)
	}
	switch {
	case d.Err == nil:
		p.retry = record.Backoff{}
		if d.job.Fresh != nil {
			p.saidAt = now
		}
		if d.job.Fresh != nil || d.job.Event != nil {
			p.left = d.job.AsOf
		}
	case errors.Is(d.Err, record.ErrAgain):
		p.retry.Stumble(now)
	case errors.Is(d.Err, record.ErrSlotTaken):
		p.Good.Slot = clock.Stamp(now)
		p.retry.Stumble(now)
	case errors.Is(d.Err, lease.ErrFenced), errors.Is(d.Err, lease.ErrExpired):
		p.Host.Lose(d.Err)
	case errors.Is(d.Err, context.Canceled): // the tenure is over
	case errors.Is(d.Err, nats.ErrMaxPayload):
		p.dropTooLong(d.Err, now)
	default:
		p.retry.Fail(now)
		p.Host.Complain(d.Err)
	}
}

// shutOut adds to a job the record that shuts out what is on its way. What
// there is to say is it, unless that speaks of a value which the stream may not
// hold: then the record says of it what was said last.
func (p *Poll) shutOut(j *record.Job, now time.Time) {
	if j.Event == nil && j.Fresh == nil && len(j.Keys) == 0 && p.Stored.Fresh == nil {
		return // there is nothing to say yet
	}
	j.Keyed = p.Shape.Keyed() || len(p.Keys) > 0
	if j.Event == nil && len(j.Keys) == 0 && !p.Good.ConfirmedHere && j.Fresh != nil {
		j.Fence = j.Fresh
		return
	}
	f := p.record(now)
	f.AsOf = clock.WallTime(p.left, now)
	if p.renew = true; !f.Stale && now.Sub(p.left) > p.Config.MaxAge {
		f.Stale, f.Reason = true, event.PollerSilent
	}
	j.Fence, j.Circuits = &f, p.Upstreams.Memos()
}
