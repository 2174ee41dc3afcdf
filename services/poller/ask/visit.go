package ask

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/breaker"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/source"
)

// visit is one tick at the upstreams, within the poll's timeout: the first that
// may be asked, when it fails the next, when all have failed those again for
// which there are retries. With a hedge the next is asked, too, when the first
// takes long. The first good answer ends it: a call that is still under way is
// cancelled, and what it brings is looked at by nobody.
//
// Of an upstream a tick makes one success or one failure for its circuit, that
// of its last call, however many there were. It belongs to one goroutine.
type round struct {
	a        *Asker
	probe    bool        // the tick is for a probe only
	forgive  bool        // a failure during a standstill of the process is none
	question source.Call // the same for all
	pace     config.Pace
	deadline time.Time

	contacts []*contact    // in the order in which they were first asked
	done     chan callDone // of calls beside the visit; nil if alone
	landed   callDone      // of the last call, if alone
	flying   int           // calls of which the end was not taken in
	alone    bool          // there is one call at a time, for want of a hedge
	retried  int
	final    bool // the request is wrong, or the answer no value: no more calls
	last     *source.Failure
}

// guest is an upstream that this tick asks.
type contact struct {
	up       *Upstream
	permit   breaker.Permit
	failure  *source.Failure // of its last call
	done     bool            // its last call has ended
	good     bool            // with a value
	reported bool            // its circuit knows
}

// callDone is one call's end.
type callDone struct {
	contact *contact
	sent    time.Time
	answer
}

const (
	firstCall    CallKind = "first"
	failOverCall CallKind = "failover"
	retryCall    CallKind = "retry"
	hedgeCall    CallKind = "hedge"
	probeCall    CallKind = "probe"
	PositionCall CallKind = "position"
)

var CallKinds = []CallKind{firstCall, failOverCall, retryCall, hedgeCall, probeCall, PositionCall}

// tickInfo is a tick that may ask.
type Tick struct {
	Up        *Upstream      // to begin with
	Permit    breaker.Permit // for the first call to it
	ProbeOnly bool           // nothing else is asked for
	Forgive   bool           // a failure during a standstill of the process is none
	Slot      time.Time
}

// read makes a tick's calls, beginning with the upstream that was picked.
// Whoever gets the reading must tell the circuits.
func (a *Asker) Read(ctx context.Context, t Tick, prev Before) Reading {
	up, leave := t.Up, t.Permit
	start := clock.Now()
	v := &round{a: a, probe: t.ProbeOnly, forgive: t.Forgive, pace: config.NewPace(a.Source, a.Config), deadline: start.Add(a.Config.Timeout)}
	r := Reading{Up: up, probe: leave.Probe, Slot: t.Slot, Sent: start}
	tick := ctx
	var hedge, again <-chan time.Time
	if d := a.Source.Hedge; d > 0 && !t.ProbeOnly && !leave.Probe {
		var cancel context.CancelFunc
		tick, cancel = context.WithCancel(ctx)
		defer cancel()
		t := time.NewTimer(d)
		defer t.Stop()
		hedge = t.C
		v.done = make(chan callDone, v.pace.Calls()) // room for the late ones
	}
	v.alone = hedge == nil

	if f := v.compose(tick, jq.Moment{Now: start, Slot: t.Slot, Prev: prev.Last.Value}, up, leave); f != nil {
		return v.close(r, start)
	}
	var pause *time.Timer
	v.ask(tick, up, leave, firstCall)
	cut := ctx.Done()
	for more := true; more; {
		d := v.landed
		if !v.alone || v.flying == 0 {
			select {
			case d = <-v.done:
			case <-again:
				again = nil
				more = v.retry(tick)
				continue
			case <-hedge:
				hedge = nil
				if v.flying == 1 && len(v.contacts) == 1 {
					v.askNext(tick, hedgeCall)
				}
				continue
			case <-cut:
				cut, again, hedge = nil, nil, nil
				r.Abandoned = true
				more = v.flying > 0
				continue
			}
		}
		if v.end(ctx, d, prev, &r) {
			return v.close(r, start)
		}
		var wait time.Duration
		if more, wait = v.goOn(tick); wait > 0 {
			if pause == nil {
				pause = time.NewTimer(wait)
				defer pause.Stop()
			}
			pause.Reset(wait)
			again = pause.C
		}
	}
	return v.close(r, start)
}

// compose makes the request. That there is none is a failure of the poll.
func (v *round) compose(ctx context.Context, m jq.Moment, up *Upstream, leave breaker.Permit) *source.Failure {
	if v.a.Question.Constant() {
		v.question = v.a.Question.Plain
		return nil
	}
	ctx, cancel := context.WithDeadline(ctx, v.deadline)
	defer cancel()
	v.question, v.last = v.a.Compose(ctx, v.a.Question, m, up)
	if f := v.last; f != nil {
		if leave.Probe { // the next one comes a period later, not at once
			f.Counts, f.Again = true, false
		}
		up.Quota.GiveBack()
		v.contacts = append(v.contacts, &contact{up: up, permit: leave, failure: f, done: true})
	}
	return v.last
}

// ask makes a call beside the visit, which the poll waits for at its end.
func (v *round) ask(ctx context.Context, up *Upstream, leave breaker.Permit, why CallKind) {
	g := &contact{up: up, permit: leave}
	v.contacts = append(v.contacts, g)
	v.call(ctx, g, why)
}

// call makes a call; one beside which there is none needs no goroutine.
func (v *round) call(ctx context.Context, g *contact, why CallKind) {
	if g.permit.Probe {
		why = probeCall
	}
	g.up.Calls[why].Inc()
	g.failure, g.done = nil, false
	v.flying++
	limit := v.limit(g)
	if v.alone {
		v.landed = v.fly(ctx, g, limit)
	} else {
		v.a.Calls.Go(func() { v.done <- v.fly(ctx, g, limit) }) // there is room
	}
}

func (v *round) fly(ctx context.Context, g *contact, limit time.Duration) callDone {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	d := callDone{contact: g, sent: clock.Now()}
	d.answer = v.a.Attempt(ctx, g.up, v.question, v.forgive)
	return d
}

// limit is how long a call may take: what is left, shared with the calls that
// may have to follow.
func (v *round) limit(g *contact) time.Duration {
	left := time.Until(v.deadline)
	others := 0
	if !v.probe {
		others = v.a.Upstreams.unasked(v.asked)
	}
	if !g.permit.Probe || others > 0 { // a probe alone is not repeated
		others += v.pace.Retries - v.retried
	}
	share := max((left-v.pace.Pauses(v.retried+1))/time.Duration(others+1), min(left, config.MinTimeout))
	switch longest := v.pace.Longest; {
	case longest > 0 && g.permit.Probe: // it must leave time for those that answer
		return min(longest, share)
	case longest > 0:
		return min(longest, left)
	}
	return share
}

func (v *round) asked(up *Upstream) bool {
	for _, g := range v.contacts {
		if g.up == up {
			return true
		}
	}
	return false
}

// end takes a call's end in. It returns true for a good answer.
func (v *round) end(ctx context.Context, d callDone, prev Before, r *Reading) bool {
	g := d.contact
	v.flying--
	g.done, g.failure = true, d.Failure
	if d.Abandoned {
		r.Abandoned, r.Starved = true, r.Starved || d.Starved
		return false
	}
	if g.failure == nil {
		var out finished
		if out, g.failure = v.a.judge(ctx, d.Value, prev, g.up); g.failure == nil {
			g.good = true
			r.Up, r.probe, r.Sent, r.finished, r.Failure = g.up, g.permit.Probe, d.sent, out, nil
			return true
		}
		if ctx.Err() != nil {
			r.Abandoned = true
			return false
		}
	}
	f := g.failure
	g.up.Circuit.HoldOff(f.RetryAfter)
	if !v.final || v.last == nil {
		v.last = f
	}
	r.Up, r.probe = g.up, g.permit.Probe
	v.final = v.final || !f.Counts
	return false
}

// goOn makes the next call after a failure, or says how long to wait for it.
func (v *round) goOn(ctx context.Context) (more bool, wait time.Duration) {
	switch {
	case v.flying > 0: // it may bring the value
		return true, 0
	case v.final, v.probe, ctx.Err() != nil:
		return false, 0
	case v.askNext(ctx, failOverCall):
		return true, 0
	case v.retried == v.pace.Retries:
		return false, 0
	}
	_, wait = v.candidate()
	if pause := v.pace.Jittered(v.retried + 1); wait >= 0 && wait < pause {
		wait = pause
	}
	if wait < 0 || time.Until(v.deadline) < wait+config.MinTimeout {
		return false, 0
	}
	return true, wait
}

// askNext asks the first upstream that this tick has not asked: one whose
// circuit is closed or, unless it is for a hedge, whose probe is due.
func (v *round) askNext(ctx context.Context, why CallKind) bool {
	if time.Until(v.deadline) < config.MinTimeout {
		return false
	}
	up, leave, err := v.a.Upstreams.pickNext(v.asked, why == hedgeCall)
	if err != nil {
		return false
	}
	for _, g := range v.contacts {
		if g.done && (g.permit.Probe || v.pace.Retries == v.retried) {
			g.report() // it will not be asked again
		}
	}
	v.ask(ctx, up, leave, why)
	return true
}

// candidate is the upstream to ask again, the first of those that want to be
// left alone for the shortest time, and that time; negative if there is none.
func (v *round) candidate() (best *contact, wait time.Duration) {
	wait = -1
	for _, g := range v.contacts {
		if g.reported || g.permit.Probe || g.failure == nil {
			continue
		}
		if w, ok := g.up.Circuit.MayRepeat(g.permit); ok && (best == nil || w < wait) {
			best, wait = g, w
		}
	}
	return best, wait
}

// retry asks again, if the circuits and the upstreams' quotas still let it.
func (v *round) retry(ctx context.Context) bool {
	if v.askNext(ctx, failOverCall) { // it was closed meanwhile
		return true
	}
	g, wait := v.candidate()
	if g == nil || wait > 0 || time.Until(v.deadline) < config.MinTimeout || !g.up.Quota.Take(time.Now()) {
		return false
	}
	v.retried++
	v.call(ctx, g, retryCall)
	return true
}

// close makes the reading of what is known.
func (v *round) close(r Reading, start time.Time) Reading {
	r.Took = time.Since(start)
	r.contacts = v.contacts
	switch {
	case r.Up != nil && v.good():
		r.Abandoned = false
	case v.last != nil && !r.Abandoned:
		f := *v.last
		f.Detail = v.detail(func(f *source.Failure) string { return f.Detail })
		f.Whole = v.detail(func(f *source.Failure) string { return cmp.Or(f.Whole, f.Detail) })
		r.Failure = &f
	default:
		r.Abandoned = true
	}
	return r
}

func (v *round) good() bool {
	for _, g := range v.contacts {
		if g.good {
			return true
		}
	}
	return false
}

// detail says who failed how when several did.
func (v *round) detail(words func(*source.Failure) string) string {
	if len(v.contacts) < 2 {
		return words(v.last)
	}
	var parts []string
	for _, g := range v.contacts {
		if g.failure != nil {
			parts = append(parts, g.up.Name+": "+words(g.failure))
		}
	}
	return event.Detail(strings.Join(parts, "; "))
}

// tell ends the tick's calls for the upstream's circuit. A call that was
// cancelled, because another upstream was faster or the poller stops, counts as
// nothing.
func (g *contact) report() {
	if g.reported {
		return
	}
	g.reported = true
	c := g.up.Circuit
	switch f := g.failure; {
	case g.good:
		c.End(g.permit, breaker.Success, false, "")
	case !g.done, f == nil, f.Again:
		c.End(g.permit, breaker.Abandoned, false, "")
	case f.Counts:
		c.End(g.permit, breaker.Failure, f.Reason == event.Timeout, f.Detail)
	default:
		// The request is wrong, or the value too long for NATS, but the upstream
		// is there and answers: for the circuit that is a success.
		c.End(g.permit, breaker.Success, false, "")
	}
}

// failedOver says that an upstream failed, though perhaps another one answered.
func (r Reading) FailedOver() bool {
	return slices.ContainsFunc(r.contacts, func(g *contact) bool { return g.failure != nil && g.failure.Counts && !g.good })
}

// tellCircuits ends the tick for the circuits of all that it asked. It returns
// true if that ended a streak of failures.
func (r Reading) Report() (eased bool) {
	for _, g := range r.contacts {
		before := g.up.Circuit.Snapshot().Streak
		g.report()
		eased = eased || before > 0 && g.up.Circuit.Snapshot().Streak == 0
	}
	return eased
}

// blame makes the failure of a position that of the upstream that gave the
// head: of a tick it is one success or one failure.
func (r *Reading) Blame(f *source.Failure) {
	r.Up.Circuit.HoldOff(f.RetryAfter)
	for _, g := range r.contacts {
		if g.up == r.Up {
			g.good, g.failure = false, f
		}
	}
}
