package poll

import (
	"context"
	"reflect"
	"time"

	"github.com/pollcast/pollcast/services/poller/ask"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/record"
	"github.com/pollcast/pollcast/services/poller/walk"
)

// kind is what differs between a poll that publishes what is true now (values) and one
// that follows a sequence (following). Its methods are called with the poll's mutex.
type kind interface {
	// before is what the next answer is compared with.
	before() ask.Before
	// plan returns what a tick does after the answer, without the mutex; nil: nothing.
	plan(now time.Time) fetch
	// standsStill says that a good answer has not advanced as it must.
	standsStill(r ask.Reading, now time.Time) bool
	// keep takes what fetch has found, also when the reading is a failure.
	keep(r ask.Reading, found *walk.Walked, now time.Time)
	// take learns from a good reading.
	take(r ask.Reading)
	// verdict is what follows from the last good reading; false: nothing yet.
	verdict(now time.Time) (verdict, bool)
	// add puts into a job, which may have a freshness record, what there is to publish.
	add(j *record.Job, now time.Time)
	// settle learns how a publish went, and what it has read from the stream, or nil.
	settle(r *record.Recovered, now time.Time)
	// resume takes up what the last holder left.
	resume(r record.Recovered, now time.Time)
	// inherit takes over the memory of another configuration; false: it has none that
	// fits.
	inherit(old kind) bool
	// addTo completes a status.
	addTo(s *Status)
	// restored counts the values that are known.
	restored() int
}

// fetch completes a round of calls that brought an answer.
type fetch func(ctx context.Context, r *ask.Reading, t ask.Tick, begin time.Time) *walk.Walked

// values is the kind that publishes the last value, or one value per key.
type values struct {
	s        *state
	progress jq.Progress
	still    bool // the last good answer had not advanced
}

func (v *values) before() ask.Before {
	b := ask.Before{Seed: v.progress.Mark == nil}
	if !v.s.Shape.Keyed() {
		if own := v.own(); own != nil {
			b.Last = ask.Earlier{Value: own.good.Value, Digest: own.good.Digest}
		}
		return b
	}
	b.Keys = make(map[string]ask.Earlier, len(v.s.topics.byToken))
	for token, t := range v.s.topics.byToken {
		b.Keys[token] = ask.Earlier{Value: t.good.Value, Digest: t.good.Digest}
	}
	return b
}

// own is the poll's own topic; nil while nothing is known of it.
func (v *values) own() *topic { return v.s.topics.byToken[record.OwnTopic] }

func (v *values) plan(time.Time) fetch { return nil }

func (v *values) standsStill(r ask.Reading, now time.Time) bool {
	if v.still = false; v.s.Shape.Advance == nil {
		return false
	}
	var changedAt time.Time
	if own := v.own(); own != nil {
		changedAt = own.good.ChangedAt
	}
	v.progress.Seed(r.Seed, clock.Anchor(changedAt, now))
	v.still = v.progress.Observe(r.Mark, r.Sent, v.s.Config.MustAdvance.Within)
	return v.still
}

func (v *values) keep(ask.Reading, *walk.Walked, time.Time) {}

func (v *values) take(r ask.Reading) {
	ts := &v.s.topics
	v.s.trust.confirm(r.Sent)
	if !v.s.Shape.Keyed() {
		ts.at(record.OwnTopic, "").take(r, ask.Earlier{Value: r.Value, Digest: r.Digest}, ts.always)
		ts.retain(r, func(token string) bool { return token == record.OwnTopic })
		return
	}
	seen := make(map[string]bool, len(r.Items))
	for _, it := range r.Items {
		seen[it.Token] = true
		ts.at(it.Token, it.Key).take(r, ask.Earlier{Value: it.Value, Digest: it.Digest}, ts.always)
	}
	ts.retain(r, func(token string) bool { return seen[token] })
}

func (v *values) verdict(time.Time) (verdict, bool) {
	if v.still {
		return v.s.notAdvancing(), true
	}
	return fresh, true
}

func (v *values) add(j *record.Job, now time.Time) {
	j.Changes = v.s.topics.changes(now)
	if j.Known.Sync != record.Synced {
		v.s.addFence(j, now)
	}
}

func (v *values) settle(r *record.Recovered, now time.Time) {
	if r == nil {
		return
	}
	// The first look may have been at a replica that lagged behind.
	var gone time.Time
	if v.s.trust.confirmedHere && v.s.Shape.Keyed() {
		gone = v.s.trust.asOf
	}
	v.s.topics.learn(*r, r.Keys == nil, gone, now)
	v.recover(now)
}

func (v *values) resume(r record.Recovered, now time.Time) {
	v.s.topics.learn(r, false, time.Time{}, now)
	v.recover(now)
	if f := r.Fresh; f != nil && v.s.Shape.Keyed() {
		v.s.trust.recover(f.AsOf, now)
	}
}

// recover takes over from the poll's own value when it was confirmed.
func (v *values) recover(time.Time) {
	if own := v.own(); own != nil && !own.gone && !v.s.Shape.Keyed() {
		v.s.trust.asOf, v.s.trust.confirmedHere = own.good.AsOf, own.good.ConfirmedHere
	}
}

func (v *values) inherit(old kind) bool {
	o, ok := old.(*values)
	if !ok || v.s.Shape.Keyed() != o.s.Shape.Keyed() {
		return false
	}
	a, b := v.s.Config, o.s.Config
	if reflect.DeepEqual(a.MustAdvance, b.MustAdvance) && a.Select == b.Select {
		v.progress = o.progress
	}
	return true
}

func (v *values) addTo(s *Status) {
	if own := v.own(); own != nil && !v.s.Shape.Keyed() {
		s.ChangedAt, s.Version = own.good.ChangedAt, own.copy.Version
		return
	}
	if v.s.Shape.Keyed() {
		s.Keys = v.s.topics.live()
	}
}

func (v *values) restored() int { return v.s.topics.live() }
