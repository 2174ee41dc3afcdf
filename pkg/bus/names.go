package bus

import (
	"fmt"
	"regexp"
	"strings"
)

// DefaultPrefix is the first token of every subject unless configured.
const DefaultPrefix = "pollcast"

// Reserved last tokens of the subjects of records that are no events.
const (
	freshToken   = "_fresh"
	breakerToken = "_breaker"
)

// Names makes the subjects and names of one Pollcast installation on a NATS
// system. The zero value is not usable: call NewNames.
type Names struct {
	prefix   string
	in, live string // with the trailing dot
	api      string // begins the subjects of the JetStream API, with the trailing dot
}

var prefixRE = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// NewNames returns the names under a prefix, with the usual JetStream API; "" means DefaultPrefix. A prefix
// is one token of at most 64 characters.
func NewNames(prefix string) (Names, error) {
	if prefix == "" {
		prefix = DefaultPrefix
	}
	if !prefixRE.MatchString(prefix) {
		return Names{}, fmt.Errorf("prefix %q: use 1 to 64 of A-Z a-z 0-9 _ -", prefix)
	}
	return Names{prefix: prefix, in: prefix + ".in.", live: prefix + ".live.", api: defaultAPI}, nil
}

// Prefix is the configured first token.
func (n Names) Prefix() string { return n.prefix }

// In is the subject on which a poller publishes a topic's events.
func (n Names) In(topic string) string { return n.in + topic }

// InFresh is the subject on which a poller publishes a poll's freshness.
func (n Names) InFresh(poll string) string { return n.in + poll + "." + freshToken }

// InBreaker is the subject on which a poller publishes a source's transitions.
func (n Names) InBreaker(source string) string { return n.in + source + "." + breakerToken }

// InAll matches all subjects on which pollers publish: the stream's subjects.
func (n Names) InAll() string { return n.in + ">" }

// Live is the subject on which programs read a topic (or pattern).
func (n Names) Live(topic string) string { return n.live + topic }

// LiveAll matches all subjects on which the stream republishes.
func (n Names) LiveAll() string { return n.live + ">" }

// Stream is the name of the JetStream stream: the prefix in upper case.
func (n Names) Stream() string { return strings.ToUpper(n.prefix) }

// LeaseBucket is the name of the KV bucket that holds the leases.
func (n Names) LeaseBucket() string { return n.prefix + "_leases" }

// kind is the kind of record that a subject carries.
type kind int

const (
	kindEvent kind = iota
	kindFresh
	kindBreaker
	kindOther // a reserved record this version does not know
)

// parse takes a subject under in or live apart. ok is false for other subjects.
func (n Names) parse(subject string) (topic string, k kind, ok bool) {
	topic, ok = strings.CutPrefix(subject, n.in)
	if !ok {
		if topic, ok = strings.CutPrefix(subject, n.live); !ok {
			return "", 0, false
		}
	}
	i := strings.LastIndexByte(topic, '.')
	if last := topic[i+1:]; i < 0 || last == "" || last[0] != '_' {
		return topic, kindEvent, true
	} else if last == freshToken {
		return topic[:i], kindFresh, true
	} else if last == breakerToken {
		return topic[:i], kindBreaker, true
	}
	return topic, kindOther, true
}
