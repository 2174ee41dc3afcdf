package ask

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/breaker"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/source"
)

// round is the calls of one tick, within the poll's timeout. It asks the first upstream
// that permits a call. When that fails it asks the next one, and when all have failed
// it asks again, as often as there are retries. With a hedge it also asks the next one
// when the first takes long. The first value ends it; a call that is still under way is
// cancelled and its answer is dropped.
//
// Each upstream gets one success or one failure of a round for its circuit: that of its
// last call. A round belongs to one goroutine.
type round struct {
	a         *Asker
	probeOnly bool        // only the probe is asked for
	forgive   bool        // a failure during a standstill of the process is none
	question  source.Call // the same for all upstreams
	pace      config.Pace
	deadline  time.Time

	contacts   []*contact   // in the order in which they were first asked
	sequential bool         // one call at a time, on this goroutine: there is no hedge
	ended      callEnd      // the end of the last call, if sequential
	ends       chan callEnd // the ends of calls, unless sequential
	underWay   int          // calls whose end was not handled yet
	retries    int          // made so far
	final      bool         // the request is wrong, or the answer no value: no more calls
	failure    *source.Failure
}

// callEnd is how one call ended.
type callEnd struct {
	contact *contact
	sent    time.Time
	answer
}

// Tick is a tick that may ask.
type Tick struct {
	Up        *Upstream      // the first upstream to ask
	Permit    breaker.Permit // for the first call to it
	ProbeOnly bool           // no other upstream and no retry
	Forgive   bool           // a failure during a standstill of the process is none
	Slot      time.Time      // the time that the schedule gave the tick
}

// Read makes a tick's calls, beginning with the upstream that was picked. The caller
// must call Report on the reading.
func (a *Asker) Read(ctx context.Context, t Tick, prev Before) Reading {
	start := clock.Now()
	rd := &round{
		a: a, probeOnly: t.ProbeOnly, forgive: t.Forgive, pace: config.NewPace(a.Source, a.Config),
		deadline: start.Add(a.Config.Timeout),
	}
	r := Reading{Up: t.Up, Slot: t.Slot, Sent: start}
	tick := ctx
	var hedge, retry <-chan time.Time
	if d := a.Source.Hedge; d > 0 && !t.ProbeOnly && !t.Permit.Probe {
		var cancel context.CancelFunc
		tick, cancel = context.WithCancel(ctx)
		defer cancel()
		timer := time.NewTimer(d)
		defer timer.Stop()
		hedge = timer.C
		rd.ends = make(chan callEnd, rd.pace.Calls()) // room for calls that end after the round
	}
	rd.sequential = hedge == nil

	if f := rd.compose(tick, jq.Moment{Now: start, Slot: t.Slot, Prev: prev.Last.Value}, t.Up, t.Permit); f != nil {
		return rd.close(r, start)
	}
	var pause *time.Timer
	rd.ask(tick, t.Up, t.Permit, firstCall)
	stopped := ctx.Done()
	for more := true; more; {
		end := rd.ended
		if !rd.sequential || rd.underWay == 0 {
			select {
			case end = <-rd.ends:
			case <-retry:
				retry = nil
				more = rd.retry(tick)
				continue
			case <-hedge:
				hedge = nil
				if rd.underWay == 1 && len(rd.contacts) == 1 {
					rd.askNext(tick, hedgeCall)
				}
				continue
			case <-stopped:
				stopped, retry, hedge = nil, nil, nil
				r.Abandoned = true
				more = rd.underWay > 0
				continue
			}
		}
		if rd.handle(ctx, end, prev, &r) {
			return rd.close(r, start)
		}
		var wait time.Duration
		if more, wait = rd.proceed(tick); wait > 0 {
			if pause == nil {
				pause = time.NewTimer(wait)
				defer pause.Stop()
			}
			pause.Reset(wait)
			retry = pause.C
		}
	}
	return rd.close(r, start)
}

// compose makes the request. If it cannot be made, that is a failure of the poll.
func (rd *round) compose(ctx context.Context, m jq.Moment, up *Upstream, permit breaker.Permit) *source.Failure {
	if rd.a.Question.Constant() {
		rd.question = rd.a.Question.Plain
		return nil
	}
	ctx, cancel := context.WithDeadline(ctx, rd.deadline)
	defer cancel()
	rd.question, rd.failure = rd.a.Compose(ctx, rd.a.Question, m, up)
	if f := rd.failure; f != nil {
		if permit.Probe { // it counts, so that the next probe comes after openFor and not at once
			f.Counts, f.Again = true, false
		}
		up.Quota.GiveBack()
		rd.contacts = append(rd.contacts, &contact{up: up, permit: permit, failure: f, ended: true})
	}
	return rd.failure
}

// ask makes the first call to an upstream.
func (rd *round) ask(ctx context.Context, up *Upstream, permit breaker.Permit, kind CallKind) {
	c := &contact{up: up, permit: permit}
	rd.contacts = append(rd.contacts, c)
	rd.call(ctx, c, kind)
}

// call makes a call: on this goroutine if the round is sequential, otherwise on one of
// its own, which Asker.Calls waits for.
func (rd *round) call(ctx context.Context, c *contact, kind CallKind) {
	if c.permit.Probe {
		kind = probeCall
	}
	c.up.Calls[kind].Inc()
	c.failure, c.ended = nil, false
	rd.underWay++
	limit := rd.limit(c)
	if rd.sequential {
		rd.ended = rd.attempt(ctx, c, limit)
	} else {
		rd.a.Calls.Go(func() { rd.ends <- rd.attempt(ctx, c, limit) }) // ends has room for all calls
	}
}

// attempt makes one call that takes limit at most.
func (rd *round) attempt(ctx context.Context, c *contact, limit time.Duration) callEnd {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	end := callEnd{contact: c, sent: clock.Now()}
	end.answer = rd.a.Attempt(ctx, c.up, rd.question, rd.forgive)
	return end
}

// limit returns how long a call may take: an equal share of the time that is left for
// this call and those that may have to follow. With attemptTimeout it is that, or less
// if less time is left; a probe keeps to its share too, so that time is left for the
// upstreams that answer.
func (rd *round) limit(c *contact) time.Duration {
	left := time.Until(rd.deadline)
	others := 0
	if !rd.probeOnly {
		others = rd.a.Upstreams.unasked(rd.asked)
	}
	if !c.permit.Probe || others > 0 { // a probe is not repeated, but others would be
		others += rd.pace.Retries - rd.retries
	}
	share := max((left-rd.pace.Pauses(rd.retries+1))/time.Duration(others+1), min(left, config.MinTimeout))
	switch longest := rd.pace.Longest; {
	case longest > 0 && c.permit.Probe:
		return min(longest, share)
	case longest > 0:
		return min(longest, left)
	}
	return share
}

// asked reports whether the round has asked an upstream.
func (rd *round) asked(up *Upstream) bool {
	for _, c := range rd.contacts {
		if c.up == up {
			return true
		}
	}
	return false
}

// handle takes the end of a call into the reading. It returns true for a value.
func (rd *round) handle(ctx context.Context, end callEnd, prev Before, r *Reading) bool {
	c := end.contact
	rd.underWay--
	c.ended, c.failure = true, end.Failure
	if end.Abandoned {
		r.Abandoned, r.Starved = true, r.Starved || end.Starved
		return false
	}
	if c.failure == nil {
		var out finished
		if out, c.failure = rd.a.judge(ctx, end.Value, prev, c.up); c.failure == nil {
			c.good = true
			r.Up, r.Sent, r.finished, r.Failure = c.up, end.sent, out, nil
			return true
		}
		if ctx.Err() != nil {
			r.Abandoned = true
			return false
		}
	}
	f := c.failure
	c.up.Circuit.HoldOff(f.RetryAfter)
	if !rd.final || rd.failure == nil {
		rd.failure = f
	}
	r.Up = c.up
	rd.final = rd.final || !f.Counts
	return false
}

// proceed makes the next call after a failure, or returns how long to wait before a
// retry. more is false when the round is over.
func (rd *round) proceed(ctx context.Context) (more bool, wait time.Duration) {
	switch {
	case rd.underWay > 0: // that call may bring the value
		return true, 0
	case rd.final, rd.probeOnly, ctx.Err() != nil:
		return false, 0
	case rd.askNext(ctx, failOverCall):
		return true, 0
	case rd.retries == rd.pace.Retries:
		return false, 0
	}
	_, wait = rd.candidate()
	if pause := rd.pace.Jittered(rd.retries + 1); wait >= 0 && wait < pause {
		wait = pause
	}
	if wait < 0 || time.Until(rd.deadline) < wait+config.MinTimeout {
		return false, 0
	}
	return true, wait
}

// askNext asks the first upstream that this round has not asked: one whose circuit is
// closed or, unless it is for a hedge, whose probe is due. It returns false if there is
// none or too little time is left.
func (rd *round) askNext(ctx context.Context, kind CallKind) bool {
	if time.Until(rd.deadline) < config.MinTimeout {
		return false
	}
	up, permit, err := rd.a.Upstreams.pickNext(rd.asked, kind == hedgeCall)
	if err != nil {
		return false
	}
	for _, c := range rd.contacts {
		if c.ended && (c.permit.Probe || rd.pace.Retries == rd.retries) {
			c.report() // it will not be asked again
		}
	}
	rd.ask(ctx, up, permit, kind)
	return true
}

// candidate returns the upstream to ask again, and how long it wants to be left alone:
// the first of those with the shortest such time. The time is negative if there is none.
func (rd *round) candidate() (best *contact, wait time.Duration) {
	wait = -1
	for _, c := range rd.contacts {
		if c.reported || c.permit.Probe || c.failure == nil {
			continue
		}
		if w, ok := c.up.Circuit.MayRepeat(c.permit); ok && (best == nil || w < wait) {
			best, wait = c, w
		}
	}
	return best, wait
}

// retry asks again, if the circuits and the upstreams' quotas still permit it.
func (rd *round) retry(ctx context.Context) bool {
	if rd.askNext(ctx, failOverCall) { // a circuit has closed during the pause
		return true
	}
	c, wait := rd.candidate()
	if c == nil || wait > 0 || time.Until(rd.deadline) < config.MinTimeout || !c.up.Quota.Take(time.Now()) {
		return false
	}
	rd.retries++
	rd.call(ctx, c, retryCall)
	return true
}

// close completes the reading.
func (rd *round) close(r Reading, start time.Time) Reading {
	r.Took = time.Since(start)
	r.contacts = rd.contacts
	switch {
	case r.Up != nil && rd.good():
		r.Abandoned = false
	case rd.failure != nil && !r.Abandoned:
		f := *rd.failure
		f.Detail = rd.detail(func(f *source.Failure) string { return f.Detail })
		f.Whole = rd.detail(func(f *source.Failure) string { return cmp.Or(f.Whole, f.Detail) })
		r.Failure = &f
	default:
		r.Abandoned = true
	}
	return r
}

// good reports whether an upstream gave the value.
func (rd *round) good() bool {
	for _, c := range rd.contacts {
		if c.good {
			return true
		}
	}
	return false
}

// detail describes the failure: with the upstreams' names if several were asked.
func (rd *round) detail(text func(*source.Failure) string) string {
	if len(rd.contacts) < 2 {
		return text(rd.failure)
	}
	var parts []string
	for _, c := range rd.contacts {
		if c.failure != nil {
			parts = append(parts, c.up.Name+": "+text(c.failure))
		}
	}
	return event.Detail(strings.Join(parts, "; "))
}
