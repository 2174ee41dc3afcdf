package e2e

import (
	"encoding/json"
	"fmt"
	"time"
)

// rules are the promises of the protocol for one connection, whatever fails
// around it.
type rules struct {
	broken []string
	begun  bool
	topics map[string]*eventFrame
	asOf   map[string]time.Time // of polls
}

// maxBroken bounds the list: a broken rule is often broken many times.
const maxBroken = 10

func (r *rules) report(format string, args ...any) {
	if len(r.broken) < maxBroken {
		r.broken = append(r.broken, fmt.Sprintf(format, args...))
	}
}

// see checks the next frame.
func (r *rules) see(f *frame) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal([]byte(f.raw), &keys); err != nil {
		r.report("a frame is a JSON object: %v: %s", err, f.raw)
		return
	}
	delete(keys, "id")
	if len(keys) != 1 {
		r.report("a frame has exactly one key beside id: %s", f.raw)
	}
	if !r.begun && f.Welcome == nil {
		r.report("the first frame is welcome: %s", f.raw)
	}
	r.begun = true
	switch {
	case f.Event != nil:
		r.seeEvent(f)
	case f.Fresh != nil:
		r.trust(f, f.Fresh.Poll, f.Fresh.Stale, f.Fresh.Reason, f.Fresh.Breaker)
		r.forward(f, f.Fresh.Poll, f.Fresh.AsOf)
	}
}

func (r *rules) seeEvent(f *frame) {
	e := f.Event
	r.trust(f, e.Topic, e.Stale, e.Reason, e.Breaker)
	r.forward(f, e.Poll, e.AsOf)
	// The frame was made a little before it arrived. Both processes use the same
	// clock.
	if age, have := f.at.Sub(e.AsOf), time.Duration(e.AgeMs)*time.Millisecond; have > age+5*time.Millisecond ||
		have < age-5*time.Second {
		r.report("ageMs is the value's age: have %v, it is %v: %s", have, age, f.raw)
	}
	if e.AsOf.Before(e.ChangedAt) {
		r.report("asOf is not before changedAt: %s", f.raw)
	}
	if r.topics == nil {
		r.topics = map[string]*eventFrame{}
	}
	last := r.topics[e.Topic]
	r.topics[e.Topic] = e
	switch {
	case last == nil:
	case e.Phase == "live" && e.Version != last.Version+1:
		r.report("live events have no gap and no duplicate: %s has version %d after %d", e.Topic, e.Version, last.Version)
	case e.Phase == "live" && e.Seq <= last.Seq:
		r.report("events come in order: %s has seq %d after %d", e.Topic, e.Seq, last.Seq)
	case e.Version < last.Version:
		r.report("a snapshot is not older than what was sent: %s has version %d after %d", e.Topic, e.Version, last.Version)
	}
}

func (r *rules) trust(f *frame, what string, stale bool, reason, breaker string) {
	if stale == (reason == "") {
		r.report("what is stale has a reason, what is fresh none: %s: %s", what, f.raw)
	}
	if breaker != "closed" && !stale {
		r.report("nothing is fresh while the breaker is %s: %s: %s", breaker, what, f.raw)
	}
}

// forward checks that asOf never decreases.
func (r *rules) forward(f *frame, poll string, asOf time.Time) {
	if r.asOf == nil {
		r.asOf = map[string]time.Time{}
	}
	if asOf.Before(r.asOf[poll]) {
		r.report("asOf never goes back: %s was %v: %s", poll, r.asOf[poll], f.raw)
	}
	r.asOf[poll] = asOf
}
