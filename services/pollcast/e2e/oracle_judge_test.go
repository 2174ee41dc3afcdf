package e2e

import (
	"fmt"
	"slices"
	"strings"
)

// judge compares a witness's record with the ledger. For each topic that a
// connection covers, it must deliver everything that the stream stored after the
// position where covering began, each event once and in order. A snapshot must
// have exactly the values that the stream held at its position.
type judge struct {
	ledger  *ledger
	w       *witness
	topics  []string // patterns of the connection
	cursors map[string]cursor
	at      int // in the record
	checked int // events
	removed int // events that a deletion removed from the stream
	broken  []string
}

// cursor is how far a topic is checked.
type cursor struct {
	seq      uint64
	snapshot uint64 // the event that the snapshot must have; 0: none
	anyEvent bool   // the snapshot must have some event
}

func (j *judge) complain(e entry, format string, args ...any) {
	if len(j.broken) < maxBroken {
		j.broken = append(j.broken, fmt.Sprintf("%s: %s\n%s", e, fmt.Sprintf(format, args...), j.before(e)))
	}
}

// before returns what led to an entry: the connection's subscriptions, and what
// it received of the topic.
func (j *judge) before(e entry) string {
	var lines []string
	for _, d := range j.w.record[:j.at+1] {
		if d.conn == e.conn && (d.kind != happened || d.topic == e.topic) {
			lines = append(lines, "\t"+d.String())
		}
	}
	return strings.Join(lines[max(0, len(lines)-12):], "\n")
}

// judge checks the record. The ledger is complete, and its mutex is held.
func (j *judge) judge() {
	j.cursors = map[string]cursor{}
	for i, e := range j.w.record {
		j.at = i
		switch e.kind {
		case begun:
			j.begin(e)
		case answered:
			for topic, c := range j.cursors {
				if c.snapshot > 0 {
					j.complain(e, "%s is not in it, which the stream holds at %d", topic, c.snapshot)
				}
			}
		case dropped:
			j.topics = slices.DeleteFunc(j.topics, func(p string) bool { return !slices.Contains(e.topics, p) })
			for topic := range j.cursors {
				if !anyMatches(j.topics, topic) {
					delete(j.cursors, topic)
				}
			}
		case lost:
			if i == len(j.w.record)-1 {
				j.end(e)
			}
			j.topics = nil
			clear(j.cursors)
		case happened:
			j.event(e)
		}
	}
}

// begin starts the topics that the connection did not cover before.
func (j *judge) begin(e entry) {
	for topic, events := range j.ledger.topics {
		if _, covered := j.cursors[topic]; covered || !anyMatches(e.topics, topic) {
			continue
		}
		c := cursor{seq: e.seq}
		if last, ok := until(events, e.seq); e.resumed {
			// Only events after the position follow.
		} else if j.ledger.gone(topic, e.seq+1) {
			c.anyEvent = true // the value of that time is not known any more
		} else if ok && !last.deleted {
			c.snapshot = last.seq
		}
		j.cursors[topic] = c
	}
	for _, p := range e.topics {
		if !slices.Contains(j.topics, p) {
			j.topics = append(j.topics, p)
		}
	}
}

func (j *judge) event(e entry) {
	j.checked++
	c, covered := j.cursors[e.topic]
	if !covered {
		j.complain(e, "nobody asked for it; subscribed are %v", j.topics)
		return
	}
	events := j.ledger.topics[e.topic]
	was, known := j.ledger.at(e.topic, e.seq)
	switch {
	case !known && !j.ledger.gone(e.topic, e.seq):
		j.complain(e, "the stream holds no such event")
		return
	case known && (was.version != e.version || was.deleted != e.deleted || !was.deleted && was.data != e.data):
		j.complain(e, "the stream holds %+v, the value's hash is %d", was, e.data)
	}
	if e.phase == "snapshot" {
		if c.snapshot != e.seq && !c.anyEvent {
			j.complain(e, "a snapshot at this position owes %d; the stream holds %+v", c.snapshot, j.ledger.topics[e.topic])
		}
		j.cursors[e.topic] = cursor{seq: max(c.seq, e.seq)}
		return
	}
	switch next := after(events, c.seq); {
	case c.snapshot > 0:
		j.complain(e, "it comes before the snapshot's event at %d", c.snapshot)
	case e.seq <= c.seq:
		j.complain(e, "it comes after that at %d: again, or in the wrong order", c.seq)
	case j.w.kind.latest, !known:
	case next < len(events) && events[next].seq < e.seq:
		missing := after(events, e.seq) - 1 - next
		if !e.deleted {
			j.complain(e, "%d events are missing before it, of which the first is version %d at %d; the last before was at %d",
				missing, events[next].version, events[next].seq, c.seq)
		}
		j.removed += missing // of a deleted key the stream keeps the deletion only
	}
	j.cursors[e.topic] = cursor{seq: e.seq}
}

// end checks that everything has come, because nothing more comes.
func (j *judge) end(e entry) {
	for topic, c := range j.cursors {
		if c.snapshot > 0 {
			j.complain(e, "%s was never sent, which the stream holds at %d", topic, c.snapshot)
			continue
		}
		events := j.ledger.topics[topic]
		if next := after(events, c.seq); next < len(events) && !j.w.kind.latest {
			j.complain(e, "%s: %d events after %d were never sent", topic, len(events)-next, c.seq)
		} else if next < len(events) {
			j.complain(e, "%s: its last value, at %d, was never sent; the last was at %d", topic, events[len(events)-1].seq,
				c.seq)
		}
	}
}
