package runner

import (
	"time"

	"github.com/pollcast/pollcast/pkg/event"
)

// rule is the breaker of the design, section 5, written from its words alone:
//
//	Opens on N consecutive failures at any interval, stays open for openFor,
//	then lets exactly one probe through; success closes at once, failure opens
//	for another period; one failure between successes never opens it.
//	Retry-After is honoured. A poller that restarts while the upstream is down
//	goes on where the last one was.
type rule struct {
	failures int           // N
	openFor  time.Duration // of its configuration

	state  event.State
	streak int
	probe  time.Time // when open: not before
	record time.Time // that, as the record of the opening tells it
	wait   time.Time // Retry-After: not before
	until  time.Time // that, as records tell it
	told   time.Time // the last record
	turns  int       // how often the state changed
}

func (r *rule) lets(now time.Time) bool {
	switch r.state {
	case event.Open:
		return !now.Before(r.probe)
	case event.HalfOpen:
		return false
	}
	return !now.Before(r.wait)
}

// begins is a call that was let through.
func (r *rule) begins() (turn int) {
	if r.state == event.Open {
		r.turn(event.HalfOpen)
	}
	return r.turns
}

func (r *rule) turn(to event.State) {
	r.state = to
	r.turns++
}

// ends is its end; good also if the upstream calls the request wrong. A call
// that began before the state changed is of another time and counts as nothing.
func (r *rule) ends(now time.Time, turn int, good bool, retryAfter time.Duration) {
	if retryAfter > 0 {
		r.wait = now.Add(retryAfter)
		if r.until = r.wait; r.state == event.Open && r.wait.After(r.probe) {
			r.probe, r.record = r.wait, r.wait
		}
	}
	if turn != r.turns {
		return
	}
	if good {
		if r.streak = 0; r.state != event.Closed {
			r.turn(event.Closed)
		}
		return
	}
	r.streak++
	if r.state == event.HalfOpen || r.streak >= r.failures {
		r.turn(event.Open)
		r.probe = now.Add(r.openFor)
		if r.until.After(r.probe) {
			r.probe = r.until
		}
		r.record = r.probe
	}
}

// restarts is a new poller whose clock is ahead of the last one's by step. What
// is left of the period it reads from the clock, at most as much as was left
// when it was told. Of a probe that went down with its poller nothing was
// learnt: the next call is it. Likewise of the time for which the upstream wants
// to be left alone.
func (r *rule) restarts(now time.Time, step time.Duration) {
	for _, at := range []*time.Time{&r.until, &r.record, &r.told} {
		*at = at.Add(-step)
	}
	if r.state == event.HalfOpen {
		r.turn(event.Open)
		r.record = now
	}
	left := func(at time.Time) time.Time { return now.Add(max(0, min(at.Sub(now), at.Sub(r.told)))) }
	if r.until = left(r.until); r.until.Before(r.wait) {
		r.wait = r.until
	}
	r.probe = left(r.record)
	r.record = r.probe // which its first record tells
}
