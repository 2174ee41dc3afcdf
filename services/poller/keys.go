package poller

import (
	"slices"
	"strings"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/event"
)

// A poll whose answer is split has a last good value per key, each on a topic
// of its own, all confirmed by one reading and told by one freshness record.
// What is known of them is kept as of the poll's own topic, key by key.

const (
	// keepDeleted is how long the stream holds a deletion, for readers that were
	// away. Until then the key's versions go on if it comes back.
	keepDeleted = bus.KeepDeletions
	// maxGone bounds the keys that are remembered after they disappeared; the
	// longest gone are forgotten first.
	maxGone = 10_000
)

// keyed is one key of a poll.
type keyed struct {
	key, topic string
	good       lastGood
	gone       bool // not in the last good answer; good then says since when
	held       held
}

// own is the token under which a poll's own topic stands among its keys, when
// the poll had no keys in an earlier configuration. No key has an empty token.
const own = ""

// keyToken is the last token of the topic of a key's event.
func keyToken(e *event.Event) (string, bool) { return strings.CutPrefix(e.Topic, e.Poll+".") }

// takeKeys keeps the values of a reading. Keys that it lacks are gone.
func (p *poll) takeKeys(r reading, now time.Time) {
	seen := make(map[string]bool, len(r.items))
	for _, it := range r.items {
		seen[it.token] = true
		k := p.keys[it.token]
		if k == nil {
			k = &keyed{topic: p.keyTopic(it.token)}
			p.keys[it.token] = k
		}
		if k.gone { // it is back: a new value, even if it is the old one
			k.gone, k.good = false, lastGood{}
		}
		k.key = it.key
		k.good.take(it.value, it.digest, r.sent, r.slot, r.up.name, p.always)
	}
	gone := 0
	for token, k := range p.keys {
		if !seen[token] && !k.gone {
			k.gone = true
			k.good = lastGood{asOf: r.sent, own: true, changedAt: stamp(r.sent), slot: r.slot, upstream: r.up.name}
		}
		if !k.gone {
			continue
		}
		if k.settled() && (k.held.version == 0 || now.Sub(k.good.changedAt) > keepDeleted) {
			delete(p.keys, token)
			continue
		}
		gone++
	}
	if gone > maxGone {
		p.forget(gone - maxGone)
	}
}

// settled says that the stream knows of a key that is gone.
func (k *keyed) settled() bool { return !k.held.has }

// forget drops the n keys that are gone for the longest time.
func (p *poll) forget(n int) {
	var tokens []string
	for token, k := range p.keys {
		if k.gone && k.settled() {
			tokens = append(tokens, token)
		}
	}
	slices.SortFunc(tokens, func(a, b string) int {
		return p.keys[a].good.changedAt.Compare(p.keys[b].good.changedAt)
	})
	for _, token := range tokens[:min(n, len(tokens))] {
		delete(p.keys, token)
	}
}

// resumeKeys takes up what the stream holds of the poll's keys.
func (p *poll) resumeKeys(r remains) {
	for _, k := range p.keys {
		k.good.own = false
	}
	p.learnKeys(r, clock())
}

// learnKeys brings the keys to all that the stream holds of them.
func (p *poll) learnKeys(r remains, now time.Time) {
	for _, k := range p.keys {
		k.held.has = false // unless it is found below
	}
	for token, e := range r.keys {
		k := p.keys[token]
		if k == nil {
			k = &keyed{topic: e.Topic, key: e.Key}
			p.keys[token] = k
			if p.good.own && p.shape.keyed() && !e.Deleted { // not in the last good answer
				k.gone = true
				k.good = lastGood{asOf: p.good.asOf, own: true, changedAt: stamp(p.good.asOf), slot: stamp(now)}
			}
		}
		k.found(e, r.keySeqs[token], r.fresh, p.ignore)
	}
}

// found brings a key to the event that the stream holds of it, or nil, unless
// something later is known. A freshness record of the poll speaks for all its
// keys.
func (k *keyed) found(e *event.Event, seq uint64, fresh *event.Freshness, ignore []path) {
	k.held.learn(e, seq, ignore)
	if e == nil {
		return
	}
	r := remains{event: e, fresh: fresh}
	now := clock()
	k.held.recognise(&k.good, e, now)
	if !k.good.asOf.IsZero() && (k.good.own || !k.good.asOf.Before(anchor(r.asOf(), now))) {
		return
	}
	if k.gone = e.Deleted; k.gone {
		k.good = lastGood{asOf: anchor(e.AsOf, now), changedAt: e.ChangedAt, slot: e.ChangedAt, upstream: e.Upstream}
		return
	}
	k.good.restore(r, k.held.digest, now)
}

// unstored says that the stream does not hold what is known of the key.
func (k *keyed) unstored(always bool) bool {
	if k.gone {
		return k.held.has
	}
	return k.held.misses(&k.good, always)
}

// keyJobs is what there is to say of keys.
func (p *poll) keyJobs(now time.Time) []*keyJob {
	var jobs []*keyJob
	for token, k := range p.keys {
		if !k.unstored(p.always) {
			continue
		}
		jobs = append(jobs, &keyJob{
			token: token, digest: k.good.digest, slot: k.good.slot, known: k.held,
			event: &event.Event{
				Topic: k.topic, Poll: p.topic, Key: k.key, Data: k.good.value, Deleted: k.gone,
				Upstream: k.good.upstream, ChangedAt: k.good.changedAt, AsOf: told(k.good.asOf, now),
			},
		})
	}
	return jobs
}

// settleKeys learns how the publishing of keys went.
func (p *poll) settleKeys(jobs []*keyJob, now time.Time) {
	for _, j := range jobs {
		k := p.keys[j.token]
		if k == nil {
			continue
		}
		k.held = j.known
		if j.taken {
			k.good.slot = stamp(now)
		}
	}
}

// live counts the keys that have a value.
func (p *poll) live() (n int) {
	for _, k := range p.keys {
		if !k.gone {
			n++
		}
	}
	return n
}
