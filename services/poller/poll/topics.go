package poll

import (
	"slices"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/ask"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/record"
)

const (
	// KeepDeleted is how long the stream holds a deletion, for readers that were away.
	// Until then the topic's versions go on if its key comes back.
	KeepDeleted = bus.KeepDeletions
	// maxGone bounds the topics that are remembered after their keys disappeared. The
	// longest gone are forgotten first.
	maxGone = 10_000
)

// topics are the topics on which a poll publishes values: its own, one for each key of
// an answer that is split, and what an earlier configuration has left. Each has a last
// good value of its own; all are confirmed by one reading, and one freshness record
// speaks for all. What is true of one topic is true of each: its own and a key's do not
// differ.
type topics struct {
	poll    string // the poll's own topic
	always  bool   // every reading is an event
	ignore  []jq.Path
	byToken map[string]*topic
}

// topic is one of them.
type topic struct {
	name, key string
	good      record.LastGood
	gone      bool // not in the last good answer; good then says since when
	copy      record.Copy
	// pending: a publish is under way. Its outcome must find the topic.
	pending bool
}

// at returns a topic, which it makes if need be.
func (ts *topics) at(token, key string) *topic {
	t := ts.byToken[token]
	if t == nil {
		t = &topic{name: ts.poll}
		if token != record.OwnTopic {
			t.name += "." + token
		}
		ts.byToken[token] = t
	}
	t.key = key
	return t
}

// take keeps the value of a reading.
func (t *topic) take(r ask.Reading, value ask.Earlier, always bool) {
	if t.gone { // it is back: a new value, even if it is the old one
		t.gone, t.good = false, record.LastGood{}
	}
	t.good.Take(value.Value, value.Digest, r.Sent, r.Slot, r.Up.Name, always)
}

// retain marks the topics as gone that a reading lacks.
func (ts *topics) retain(r ask.Reading, has func(token string) bool) {
	for token, t := range ts.byToken {
		if !t.gone && !has(token) {
			t.goAway(r.Sent, r.Slot, r.Up.Name)
		}
	}
}

func (t *topic) goAway(sent, slot time.Time, upstream string) {
	t.gone = true
	t.good = record.LastGood{
		AsOf: sent, ConfirmedHere: true, ChangedAt: clock.Stamp(sent), Slot: slot, Upstream: upstream,
	}
}

// settled says that the stream knows that the topic is gone, and that nothing under way
// will change that.
func (t *topic) settled() bool { return t.gone && !t.copy.Has && !t.pending }

// forgetGone drops what is gone for so long that its versions need not go on.
func (ts *topics) forgetGone(now time.Time) {
	var gone []string
	for token, t := range ts.byToken {
		switch {
		case !t.settled():
		case t.copy.Version == 0, now.Sub(t.good.ChangedAt) > KeepDeleted:
			delete(ts.byToken, token)
		default:
			gone = append(gone, token)
		}
	}
	if len(gone) <= maxGone {
		return
	}
	slices.SortFunc(gone, func(a, b string) int {
		return ts.byToken[a].good.ChangedAt.Compare(ts.byToken[b].good.ChangedAt)
	})
	for _, token := range gone[:len(gone)-maxGone] {
		delete(ts.byToken, token)
	}
}

// forgetTenure begins a tenure: somebody else may know better, and nothing is under way.
func (ts *topics) forgetTenure() {
	for _, t := range ts.byToken {
		t.good.ConfirmedHere, t.pending = false, false
	}
}

// learn brings the topics to what was read from the stream: all of it, or with
// ownOnly the poll's own topic. gone says of a topic that is not known yet that the
// last good answer does not have it, and since when; zero: nobody knows.
func (ts *topics) learn(r record.Recovered, ownOnly bool, gone, now time.Time) {
	for token, t := range ts.byToken {
		if !ownOnly || token == record.OwnTopic || r.FreshSeq == 0 { // without a record the stream is a new one
			t.copy.Learn(record.Last{}, ts.ignore) // unless it is found below
		}
	}
	for token, last := range r.Topics() {
		t := ts.byToken[token]
		if t == nil {
			t = ts.at(token, last.Event.Key)
			if !gone.IsZero() && !last.Event.Deleted {
				t.goAway(gone, clock.Stamp(now), "")
			}
		}
		t.learn(last, ts.ignore, now)
	}
}

// learn brings a topic to the last event that the stream holds of it, unless something
// later is known.
func (t *topic) learn(last record.Last, ignore []jq.Path, now time.Time) {
	t.copy.Learn(last, ignore)
	t.copy.Recognise(&t.good, last.Event, now)
	if g := &t.good; !g.AsOf.IsZero() && (g.ConfirmedHere || !g.AsOf.Before(clock.Anchor(last.AsOf(), now))) {
		return
	}
	if e := last.Event; e.Deleted {
		t.gone = true
		t.good = record.LastGood{
			AsOf: clock.Anchor(e.AsOf, now), ChangedAt: e.ChangedAt, Slot: e.ChangedAt, Upstream: e.Upstream,
		}
		return
	}
	t.gone = false
	t.good.Restore(last, t.copy.Digest, now)
}

// drop notes that the stream holds nothing before the sequence number first, and
// returns how many values that drops.
func (ts *topics) drop(first uint64) (n int) {
	for _, t := range ts.byToken {
		if !t.gone && t.copy.Drop(first) {
			n++
		}
	}
	return n
}

// dropTooLong drops the values that are not published and do not fit.
func (ts *topics) dropTooLong(fits func(value []byte) bool) {
	for token, t := range ts.byToken {
		switch {
		case t.gone || !t.unpublished(ts.always) || fits(t.good.Value):
		case t.copy.Version == 0 && token != record.OwnTopic:
			delete(ts.byToken, token)
		default:
			t.good = record.LastGood{}
		}
	}
}

// unpublished says that the stream does not hold what is known of the topic.
func (t *topic) unpublished(always bool) bool {
	if t.gone {
		return t.copy.Has
	}
	return t.copy.Misses(&t.good, always)
}

// changes is what there is to publish.
func (ts *topics) changes(now time.Time) []*record.Change {
	var changes []*record.Change
	for token, t := range ts.byToken {
		if !t.unpublished(ts.always) {
			continue
		}
		changes = append(changes, &record.Change{
			Token: token, Digest: t.good.Digest, Slot: t.good.Slot, Known: t.copy,
			Event: &event.Event{
				Topic: t.name, Poll: ts.poll, Key: t.key, Data: t.good.Value, Deleted: t.gone,
				Upstream: t.good.Upstream, ChangedAt: t.good.ChangedAt, AsOf: clock.WallTime(t.good.AsOf, now),
			},
		})
	}
	return changes
}

// begin notes that the changes are under way.
func (ts *topics) begin(changes []*record.Change) {
	for _, c := range changes {
		if t := ts.byToken[c.Token]; t != nil {
			t.pending = true
		}
	}
}

// cancel notes that the changes are not under way any more.
func (ts *topics) cancel(changes []*record.Change) {
	for _, c := range changes {
		if t := ts.byToken[c.Token]; t != nil {
			t.pending = false
		}
	}
}

// settle learns how publishing the changes went.
func (ts *topics) settle(changes []*record.Change, now time.Time) {
	for _, c := range changes {
		t := ts.byToken[c.Token]
		if t == nil {
			continue
		}
		t.pending, t.copy = false, c.Known
		if c.Taken {
			t.good.Slot = clock.Stamp(now)
		}
	}
}

// inherit takes over the topics of another configuration, in which other changes may
// have counted as another value.
func (ts *topics) inherit(old *topics) {
	ts.byToken = old.byToken
	for _, t := range ts.byToken {
		if t.good.Value == nil {
			continue
		}
		if d, err := jq.DigestOf(t.good.Value, ts.ignore); err == nil {
			t.good.Digest = d
		}
	}
}

// live counts the topics that have a value.
func (ts *topics) live() (n int) {
	for _, t := range ts.byToken {
		if !t.gone && t.good.Value != nil {
			n++
		}
	}
	return n
}
