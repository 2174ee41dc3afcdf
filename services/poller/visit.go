package poller

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
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
type visit struct {
	a        *asker
	probe    bool        // the tick is for a probe only
	forgive  bool        // a failure during a standstill of the process is none
	question source.Call // the same for all
	pace     pace
	deadline time.Time

	guests  []*guest      // in the order in which they were first asked
	done    chan callDone // of calls beside the visit; nil if alone
	landed  callDone      // of the last call, if alone
	flying  int           // calls of which the end was not taken in
	alone   bool          // there is one call at a time, for want of a hedge
	retried int
	final   bool // the request is wrong, or the answer no value: no more calls
	last    *source.Failure
}

// guest is an upstream that this tick asks.
type guest struct {
	up      *upstream
	leave   permit
	failure *source.Failure // of its last call
	done    bool            // its last call has ended
	good    bool            // with a value
	told    bool            // its circuit knows
}

// callDone is one call's end.
type callDone struct {
	guest *guest
	sent  time.Time
	answer
}

// callKind is why a call is made, for the metrics.
type callKind string

const (
	firstCall    callKind = "first"
	failOverCall callKind = "failover"
	retryCall    callKind = "retry"
	hedgeCall    callKind = "hedge"
	probeCall    callKind = "probe"
	positionCall callKind = "position"
)

var callKinds = []callKind{firstCall, failOverCall, retryCall, hedgeCall, probeCall, positionCall}

// tickInfo is a tick that may ask.
type tickInfo struct {
	up        *upstream // to begin with
	leave     permit    // for the first call to it
	probeOnly bool      // nothing else is asked for
	forgive   bool      // a failure during a standstill of the process is none
	slot      time.Time
}

// read makes a tick's calls, beginning with the upstream that was picked.
// Whoever gets the reading must tell the circuits.
func (a *asker) read(ctx context.Context, t tickInfo, prev before) reading {
	up, leave := t.up, t.leave
	start := clock()
	v := &visit{a: a, probe: t.probeOnly, forgive: t.forgive, pace: newPace(a.source, a.config), deadline: start.Add(a.config.Timeout)}
	r := reading{up: up, probe: leave.probe, slot: t.slot, sent: start}
	tick := ctx
	var hedge, again <-chan time.Time
	if d := a.source.Hedge; d > 0 && !t.probeOnly && !leave.probe {
		var cancel context.CancelFunc
		tick, cancel = context.WithCancel(ctx)
		defer cancel()
		t := time.NewTimer(d)
		defer t.Stop()
		hedge = t.C
		v.done = make(chan callDone, v.pace.calls()) // room for the late ones
	}
	v.alone = hedge == nil

	if f := v.compose(tick, moment{now: start, slot: t.slot, prev: prev.last.value}, up, leave); f != nil {
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
				if v.flying == 1 && len(v.guests) == 1 {
					v.askNext(tick, hedgeCall)
				}
				continue
			case <-cut:
				cut, again, hedge = nil, nil, nil
				r.abandoned = true
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
func (v *visit) compose(ctx context.Context, m moment, up *upstream, leave permit) *source.Failure {
	if v.a.question.constant() {
		v.question = v.a.question.plain
		return nil
	}
	ctx, cancel := context.WithDeadline(ctx, v.deadline)
	defer cancel()
	v.question, v.last = v.a.ask(ctx, v.a.question, m, up)
	if f := v.last; f != nil {
		if leave.probe { // the next one comes a period later, not at once
			f.Counts, f.Again = true, false
		}
		up.quota.giveBack()
		v.guests = append(v.guests, &guest{up: up, leave: leave, failure: f, done: true})
	}
	return v.last
}

// ask makes a call beside the visit, which the poll waits for at its end.
func (v *visit) ask(ctx context.Context, up *upstream, leave permit, why callKind) {
	g := &guest{up: up, leave: leave}
	v.guests = append(v.guests, g)
	v.call(ctx, g, why)
}

// call makes a call; one beside which there is none needs no goroutine.
func (v *visit) call(ctx context.Context, g *guest, why callKind) {
	if g.leave.probe {
		why = probeCall
	}
	g.up.calls[why].Inc()
	g.failure, g.done = nil, false
	v.flying++
	limit := v.limit(g)
	if v.alone {
		v.landed = v.fly(ctx, g, limit)
	} else {
		v.a.calls.Go(func() { v.done <- v.fly(ctx, g, limit) }) // there is room
	}
}

func (v *visit) fly(ctx context.Context, g *guest, limit time.Duration) callDone {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	d := callDone{guest: g, sent: clock()}
	d.answer = v.a.attempt(ctx, g.up, v.question, v.forgive)
	return d
}

// limit is how long a call may take: what is left, shared with the calls that
// may have to follow.
func (v *visit) limit(g *guest) time.Duration {
	left := time.Until(v.deadline)
	others := 0
	if !v.probe {
		others = v.a.upstreams.unasked(v.asked)
	}
	if !g.leave.probe || others > 0 { // a probe alone is not repeated
		others += v.pace.retries - v.retried
	}
	share := max((left-v.pace.pauses(v.retried+1))/time.Duration(others+1), min(left, MinTimeout))
	switch longest := v.pace.longest; {
	case longest > 0 && g.leave.probe: // it must leave time for those that answer
		return min(longest, share)
	case longest > 0:
		return min(longest, left)
	}
	return share
}

func (v *visit) asked(up *upstream) bool {
	for _, g := range v.guests {
		if g.up == up {
			return true
		}
	}
	return false
}

// end takes a call's end in. It returns true for a good answer.
func (v *visit) end(ctx context.Context, d callDone, prev before, r *reading) bool {
	g := d.guest
	v.flying--
	g.done, g.failure = true, d.failure
	if d.abandoned {
		r.abandoned, r.starved = true, r.starved || d.starved
		return false
	}
	if g.failure == nil {
		var out finished
		if out, g.failure = v.a.judge(ctx, d.value, prev, g.up); g.failure == nil {
			g.good = true
			r.up, r.probe, r.sent, r.finished, r.failure = g.up, g.leave.probe, d.sent, out, nil
			return true
		}
		if ctx.Err() != nil {
			r.abandoned = true
			return false
		}
	}
	f := g.failure
	g.up.circuit.wait(f.RetryAfter)
	if !v.final || v.last == nil {
		v.last = f
	}
	r.up, r.probe = g.up, g.leave.probe
	v.final = v.final || !f.Counts
	return false
}

// goOn makes the next call after a failure, or says how long to wait for it.
func (v *visit) goOn(ctx context.Context) (more bool, wait time.Duration) {
	switch {
	case v.flying > 0: // it may bring the value
		return true, 0
	case v.final, v.probe, ctx.Err() != nil:
		return false, 0
	case v.askNext(ctx, failOverCall):
		return true, 0
	case v.retried == v.pace.retries:
		return false, 0
	}
	_, wait = v.candidate()
	if pause := v.pace.jittered(v.retried + 1); wait >= 0 && wait < pause {
		wait = pause
	}
	if wait < 0 || time.Until(v.deadline) < wait+MinTimeout {
		return false, 0
	}
	return true, wait
}

// askNext asks the first upstream that this tick has not asked: one whose
// circuit is closed or, unless it is for a hedge, whose probe is due.
func (v *visit) askNext(ctx context.Context, why callKind) bool {
	if time.Until(v.deadline) < MinTimeout {
		return false
	}
	up, leave, err := v.a.upstreams.pickNext(v.asked, why == hedgeCall)
	if err != nil {
		return false
	}
	for _, g := range v.guests {
		if g.done && (g.leave.probe || v.pace.retries == v.retried) {
			g.tell() // it will not be asked again
		}
	}
	v.ask(ctx, up, leave, why)
	return true
}

// candidate is the upstream to ask again, the first of those that want to be
// left alone for the shortest time, and that time; negative if there is none.
func (v *visit) candidate() (best *guest, wait time.Duration) {
	wait = -1
	for _, g := range v.guests {
		if g.told || g.leave.probe || g.failure == nil {
			continue
		}
		if w, ok := g.up.circuit.still(g.leave); ok && (best == nil || w < wait) {
			best, wait = g, w
		}
	}
	return best, wait
}

// retry asks again, if the circuits and the upstreams' quotas still let it.
func (v *visit) retry(ctx context.Context) bool {
	if v.askNext(ctx, failOverCall) { // it was closed meanwhile
		return true
	}
	g, wait := v.candidate()
	if g == nil || wait > 0 || time.Until(v.deadline) < MinTimeout || !g.up.quota.take(time.Now()) {
		return false
	}
	v.retried++
	v.call(ctx, g, retryCall)
	return true
}

// close makes the reading of what is known.
func (v *visit) close(r reading, start time.Time) reading {
	r.took = time.Since(start)
	r.guests = v.guests
	switch {
	case r.up != nil && v.good():
		r.abandoned = false
	case v.last != nil && !r.abandoned:
		f := *v.last
		f.Detail = v.detail(func(f *source.Failure) string { return f.Detail })
		f.Whole = v.detail(func(f *source.Failure) string { return cmp.Or(f.Whole, f.Detail) })
		r.failure = &f
	default:
		r.abandoned = true
	}
	return r
}

func (v *visit) good() bool {
	for _, g := range v.guests {
		if g.good {
			return true
		}
	}
	return false
}

// detail says who failed how when several did.
func (v *visit) detail(words func(*source.Failure) string) string {
	if len(v.guests) < 2 {
		return words(v.last)
	}
	var parts []string
	for _, g := range v.guests {
		if g.failure != nil {
			parts = append(parts, g.up.name+": "+words(g.failure))
		}
	}
	return event.Detail(strings.Join(parts, "; "))
}

// tell ends the tick's calls for the upstream's circuit. A call that was
// cancelled, because another upstream was faster or the poller stops, counts as
// nothing.
func (g *guest) tell() {
	if g.told {
		return
	}
	g.told = true
	c := g.up.circuit
	switch f := g.failure; {
	case g.good:
		c.end(g.leave, success, false, "")
	case !g.done, f == nil, f.Again:
		c.end(g.leave, abandoned, false, "")
	case f.Counts:
		c.end(g.leave, failure, f.Reason == event.Timeout, f.Detail)
	default:
		// The request is wrong, or the value too long for NATS, but the upstream
		// is there and answers: for the circuit that is a success.
		c.end(g.leave, success, false, "")
	}
}

// failedOver says that an upstream failed, though perhaps another one answered.
func (r reading) failedOver() bool {
	return slices.ContainsFunc(r.guests, func(g *guest) bool { return g.failure != nil && g.failure.Counts && !g.good })
}

// tellCircuits ends the tick for the circuits of all that it asked. It returns
// true if that ended a streak of failures.
func (r reading) tellCircuits() (eased bool) {
	for _, g := range r.guests {
		before := g.up.circuit.look().streak
		g.tell()
		eased = eased || before > 0 && g.up.circuit.look().streak == 0
	}
	return eased
}
