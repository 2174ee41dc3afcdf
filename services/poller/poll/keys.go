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

// A poll whose answer is split has a last good value per key, each on a topic
// of its own, all confirmed by one reading and told by one freshness record.
// What is known of them is kept as of the poll's own topic, key by key.

const (
	// keepDeleted is how long the stream holds a deletion, for readers that were
	// away. Until then the key's versions go on if it comes back.
	KeepDeleted = bus.KeepDeletions
	// maxGone bounds the keys that are remembered after they disappeared; the
	// longest gone are forgotten first.
	maxGone = 10_000
)

// keyed is one key of a poll.
type Keyed struct {
	key, topic string
	good       record.LastGood
	gone       bool // not in the last good answer; good then says since when
	held       record.Held
}

// takeKeys keeps the values of a reading. Keys that it lacks are gone.
func (p *Poll) takeKeys(r ask.Reading, now time.Time) {
	seen := make(map[string]bool, len(r.Items))
	for _, it := range r.Items {
		seen[it.Token] = true
		k := p.Keys[it.Token]
		if k == nil {
			k = &Keyed{topic: p.KeyTopic(it.Token)}
			p.Keys[it.Token] = k
		}
		if k.gone { // it is back: a new value, even if it is the old one
			k.gone, k.good = false, record.LastGood{}
		}
		k.key = it.Key
		k.good.Take(it.Value, it.Digest, r.Sent, r.Slot, r.Up.Name, p.Always)
	}
	gone := 0
	for token, k := range p.Keys {
		if !seen[token] && !k.gone {
			k.gone = true
			k.good = record.LastGood{AsOf: r.Sent, ConfirmedHere: true, ChangedAt: clock.Stamp(r.Sent), Slot: r.Slot, Upstream: r.Up.Name}
		}
		if !k.gone {
			continue
		}
		if k.settled() && (k.held.Version == 0 || now.Sub(k.good.ChangedAt) > KeepDeleted) {
			delete(p.Keys, token)
			continue
		}
		gone++
	}
	if gone > maxGone {
		p.forget(gone - maxGone)
	}
}

// settled says that the stream knows of a key that is gone.
func (k *Keyed) settled() bool { return !k.held.Has }

// forget drops the n keys that are gone for the longest time.
func (p *Poll) forget(n int) {
	var tokens []string
	for token, k := range p.Keys {
		if k.gone && k.settled() {
			tokens = append(tokens, token)
		}
	}
	slices.SortFunc(tokens, func(a, b string) int {
		return p.Keys[a].good.ChangedAt.Compare(p.Keys[b].good.ChangedAt)
	})
	for _, token := range tokens[:min(n, len(tokens))] {
		delete(p.Keys, token)
	}
}

// resumeKeys takes up what the stream holds of the poll's keys.
func (p *Poll) resumeKeys(r record.Recovered) {
	for _, k := range p.Keys {
		k.good.ConfirmedHere = false
	}
	p.learnKeys(r, clock.Now())
}

// learnKeys brings the keys to all that the stream holds of them.
func (p *Poll) learnKeys(r record.Recovered, now time.Time) {
	for _, k := range p.Keys {
		k.held.Has = false // unless it is found below
	}
	for token, e := range r.Keys {
		k := p.Keys[token]
		if k == nil {
			k = &Keyed{topic: e.Topic, key: e.Key}
			p.Keys[token] = k
			if p.Good.ConfirmedHere && p.Shape.Keyed() && !e.Deleted { // not in the last good answer
				k.gone = true
				k.good = record.LastGood{AsOf: p.Good.AsOf, ConfirmedHere: true, ChangedAt: clock.Stamp(p.Good.AsOf), Slot: clock.Stamp(now)}
			}
		}
		k.found(e, r.KeySeqs[token], r.Fresh, p.Ignore)
	}
}

// found brings a key to the event that the stream holds of it, or nil, unless
// something later is known. A freshness record of the poll speaks for all its
// keys.
func (k *Keyed) found(e *event.Event, seq uint64, fresh *event.Freshness, ignore []jq.Path) {
	k.held.Learn(e, seq, ignore)
	if e == nil {
		return
	}
	r := record.Recovered{Event: e, Fresh: fresh}
	now := clock.Now()
	k.held.Recognise(&k.good, e, now)
	if !k.good.AsOf.IsZero() && (k.good.ConfirmedHere || !k.good.AsOf.Before(clock.Anchor(r.AsOf(), now))) {
		return
	}
	if k.gone = e.Deleted; k.gone {
		k.good = record.LastGood{AsOf: clock.Anchor(e.AsOf, now), ChangedAt: e.ChangedAt, Slot: e.ChangedAt, Upstream: e.Upstream}
		return
	}
	k.good.Restore(r, k.held.Digest, now)
}

// unstored says that the stream does not hold what is known of the key.
func (k *Keyed) unstored(always bool) bool {
	if k.gone {
		return k.held.Has
	}
	return k.held.Misses(&k.good, always)
}

// keyJobs is what there is to say of keys.
func (p *Poll) keyJobs(now time.Time) []*record.KeyJob {
	var jobs []*record.KeyJob
	for token, k := range p.Keys {
		if !k.unstored(p.Always) {
			continue
		}
		jobs = append(jobs, &record.KeyJob{
			Token: token, Digest: k.good.Digest, Slot: k.good.Slot, Known: k.held,
			Event: &event.Event{
				Topic: k.topic, Poll: p.Topic, Key: k.key, Data: k.good.Value, Deleted: k.gone,
				Upstream: k.good.Upstream, ChangedAt: k.good.ChangedAt, AsOf: clock.WallTime(k.good.AsOf, now),
			},
		})
	}
	return jobs
}

// settleKeys learns how the publishing of keys went.
func (p *Poll) settleKeys(jobs []*record.KeyJob, now time.Time) {
	for _, j := range jobs {
		k := p.Keys[j.Token]
		if k == nil {
			continue
		}
		k.held = j.Known
		if j.Taken {
			k.good.Slot = clock.Stamp(now)
		}
	}
}

// live counts the keys that have a value.
func (p *Poll) Live() (n int) {
	for _, k := range p.Keys {
		if !k.gone {
			n++
		}
	}
	return n
}
