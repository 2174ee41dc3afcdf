package hub

import (
	"slices"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/topic"
	"github.com/pollcast/pollcast/services/gateway/memory"
)

// A View is everything under the hub's mutex. Who has one holds the mutex
// (Hub.With); its methods are the only way to what it holds.
type View struct {
	*shared
	epoch   string // "" until the stream was read once
	seq     uint64 // position: everything up to it is in the maps
	link    link
	topics  map[string]*topicState
	polls   map[string]*pollState
	sources map[string]*sourceState
	feeds   map[string]*Feed
	wild    map[*Feed]struct{} // feeds with a wildcard among their patterns
	values  valueCount
	history history
	fresh   uint64 // counts published freshness
}

// A link is what is known of the connection to the stream.
type link struct {
	down   bool
	why    string    // it is down
	lived  time.Time // when the last record came straight from the stream
	proved time.Time // lived, when NATS last reported that there is no more
}

// A valueCount counts the values that are held.
type valueCount struct {
	topics int   // that have a value
	bytes  int64 // of the values
	full   bool  // a topic was refused, and the log has it
}

// A topicState is what the hub knows of a topic. Without a value it stands for a
// topic that somebody waits for.
type topicState struct {
	name  string
	poll  *pollState
	last  *event.Event // nil: no value (yet, or any more)
	seq   uint64       // of last
	feeds map[*Feed]struct{}

	packed []byte // last's value compressed; nil: it was not
	bytes  int64  // of last's value, in both forms
}

// event returns the topic's last event.
func (t *topicState) event() Event { return Event{t.last, t.seq} }

// A sourceState is what the hub knows of a source.
type sourceState struct {
	name  string
	feeds map[*Feed]struct{}
}

// Epoch returns the stream's epoch; "" until the stream was read once.
func (v *View) Epoch() string { return v.epoch }

// Seq returns the position: everything up to it is known.
func (v *View) Seq() uint64 { return v.seq }

// Down reports whether the stream cannot be read, and why.
func (v *View) Down() (down bool, why string) { return v.link.down, v.link.why }

func (v *View) clear() {
	v.values.topics, v.values.bytes = 0, 0
	v.topics = map[string]*topicState{}
	v.polls = map[string]*pollState{}
	v.sources = map[string]*sourceState{}
}

// topic returns the state of a topic, and makes it if there is none.
func (v *View) topic(name string) *topicState {
	t := v.topics[name]
	if t == nil {
		t = &topicState{name: name, feeds: map[*Feed]struct{}{}}
		v.topics[name] = t
		for f := range v.wild { // a feed that names the topic has made its state already
			if matchAny(f.Patterns, name) {
				f.addTopic(t)
			}
		}
	}
	return t
}

func (v *View) poll(name string) *pollState {
	p := v.polls[name]
	if p == nil {
		p = &pollState{name: name, feeds: map[*Feed]struct{}{}}
		v.polls[name] = p
		for _, f := range v.feeds {
			f.addPoll(p)
		}
	}
	return p
}

func (v *View) source(name string) *sourceState {
	s := v.sources[name]
	if s == nil {
		s = &sourceState{name: name, feeds: map[*Feed]struct{}{}}
		v.sources[name] = s
		for _, f := range v.feeds {
			f.addSource(s)
		}
	}
	return s
}

// fits reports whether a topic may have a value. Topics beyond MaxTopics are not
// served, nor new ones once values take half of the memory budget.
func (v *View) fits(name string) bool {
	if t := v.topics[name]; t != nil && t.last != nil {
		return true
	}
	bound := "maxTopics"
	if v.values.topics < v.MaxTopics {
		if v.values.bytes+int64(v.values.topics)*memory.TopicCost < v.Budget.Part(50) {
			return true
		}
		bound = "memoryBudget"
	}
	if !v.values.full {
		v.values.full = true
		v.Log.Error("more topics than this gateway can hold: those beyond it are not served",
			"bound", bound, "topics", v.values.topics, "value_bytes", v.values.bytes, "topic", name)
	}
	return false
}

// setLast makes an event the last one of its topic.
func (v *View) setLast(t *topicState, p *pollState, e Event, packed []byte) {
	if t.last == nil {
		v.values.topics++
	}
	t.poll, t.last, t.seq = p, e.Event, e.Seq
	v.values.bytes -= t.bytes
	t.packed, t.bytes = packed, int64(len(e.Data)+len(packed))
	v.values.bytes += t.bytes
}

// dropLast removes the value of a topic that was deleted.
func (v *View) dropLast(t *topicState) {
	v.values.bytes -= t.bytes
	v.values.topics--
	t.last, t.packed, t.bytes = nil, nil, 0
	v.forget(t)
}

// CanWaitFor reports whether a subscription to the patterns is within the bound
// of topics that are known only because somebody waits for them.
func (v *View) CanWaitFor(patterns []string) bool {
	more := 0
	for _, p := range patterns {
		if v.topics[p] == nil && !topic.IsPattern(p) {
			more++
		}
	}
	return more == 0 || len(v.topics)-v.values.topics+more <= v.MaxTopics
}

// forget drops a topic that has no value, unless a feed names it.
func (v *View) forget(t *topicState) {
	if t.last != nil {
		return
	}
	for f := range t.feeds {
		if slices.Contains(f.Patterns, t.name) {
			return
		}
	}
	for f := range t.feeds {
		f.dropTopic(t)
	}
	delete(v.topics, t.name)
}
