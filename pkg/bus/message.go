package bus

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/topic"
)

// Headers of a record: CloudEvents 1.0 attributes in the NATS binding's binary
// mode ("ce-" and the attribute's name). Those from hdrVersion on are
// Pollcast's own, as CloudEvents extensions.
const (
	hdrSpecVersion     = "ce-specversion"
	hdrID              = "ce-id"
	hdrSource          = "ce-source"
	hdrType            = "ce-type"
	hdrSubject         = "ce-subject"
	hdrTime            = "ce-time"
	hdrDataContentType = "ce-datacontenttype"
	hdrVersion         = "ce-version"
	hdrChangedAt       = "ce-changedat"
	hdrAsOf            = "ce-asof"
	hdrFence           = "ce-fence"
	hdrPoll            = "ce-poll"
	hdrKey             = "ce-key" // percent-encoded
	hdrUpstream        = "ce-upstream"
	hdrPosition        = "ce-position"
	hdrTraceparent     = "traceparent"
)

// Headers that the NATS server sets on republished and directly read messages.
const (
	hdrNatsSubject  = "Nats-Subject"
	hdrNatsSequence = "Nats-Sequence"
	hdrNatsTime     = "Nats-Time-Stamp"
)

// EventMsg makes the message of an event. slot is the poll's slot in time: of the
// events with the same topic and slot the stream stores one (Nats-Msg-Id), also
// when several pollers send them. An event with a position is stored once per
// fence and version instead.
func (n Names) EventMsg(e *event.Event, slot time.Time) *nats.Msg {
	typ, id := event.TypeEvent, ""
	switch {
	case e.Deleted:
		typ = event.TypeDeletion
	case e.Reorganised:
		typ = event.TypeReorganised
	}
	if e.Position != nil {
		id = e.Topic + ":" + strconv.FormatInt(*e.Position, 10) +
			"@" + strconv.FormatUint(e.Fence, 10) + "." + strconv.FormatUint(e.Version, 10)
	} else {
		id = slotID(e.Topic, slot)
	}
	m, h := n.message(n.In(e.Topic), typ, e.Topic, id, e.ChangedAt, e.Fence, eventHeaders)
	m.Data = e.Data
	h.set(hdrVersion, strconv.FormatUint(e.Version, 10))
	h.set(hdrChangedAt, formatTime(e.ChangedAt))
	h.set(hdrAsOf, formatTime(e.AsOf))
	h.set(hdrPoll, e.Poll)
	if e.Topic != e.Poll {
		h.set(hdrKey, url.PathEscape(e.Key))
	}
	if e.Position != nil {
		h.set(hdrPosition, strconv.FormatInt(*e.Position, 10))
	}
	if e.Upstream != "" {
		h.set(hdrUpstream, url.PathEscape(e.Upstream))
	}
	if e.Traceparent != "" {
		h.set(hdrTraceparent, e.Traceparent)
	}
	return m
}

// freshRecord and breakerRecord are the records as the stream holds them. They
// include what the source's next lease holder needs.
type (
	freshRecord struct {
		*event.Freshness
		Circuits []event.Circuit `json:"circuits,omitempty"`
		Place    *event.Place    `json:"place,omitempty"`
	}
	breakerRecord struct {
		*event.Breaker
		Circuits []event.Circuit `json:"circuits,omitempty"`
	}
)

// freshSize is the initial buffer of a freshness record, in bytes. Most are
// shorter.
const freshSize = 320

// FreshMsg makes the message of a freshness record. place is the poll's place in
// the sequence that it walks, or nil. circuits are those of the source's
// upstreams, or none if all of them are closed without a failure.
func (n Names) FreshMsg(f *event.Freshness, place *event.Place, circuits ...event.Circuit) (*nats.Msg, error) {
	if place == nil && len(circuits) == 0 { // most records are such, and they are the most frequent ones
		data := f.AppendJSON(make([]byte, 0, freshSize))
		return n.record(n.InFresh(f.Poll), event.TypeFresh, f.Poll, f.CheckedAt, f.Fence, data), nil
	}
	data, err := json.Marshal(freshRecord{f, circuits, place})
	if err != nil {
		return nil, fmt.Errorf("encode record of %s: %w", f.Poll, err)
	}
	return n.record(n.InFresh(f.Poll), event.TypeFresh, f.Poll, f.CheckedAt, f.Fence, data), nil
}

// BreakerMsg makes the message of a breaker transition, with the circuits of the
// source's upstreams.
func (n Names) BreakerMsg(b *event.Breaker, circuits ...event.Circuit) (*nats.Msg, error) {
	data, err := json.Marshal(breakerRecord{b, circuits})
	if err != nil {
		return nil, fmt.Errorf("encode record of %s: %w", b.Source, err)
	}
	return n.record(n.InBreaker(b.Source), event.TypeBreaker, b.Source, b.At, b.Fence, data), nil
}

func (n Names) record(subject, typ, about string, at time.Time, fence uint64, data []byte) *nats.Msg {
	id := subject[len(n.in):] + ":" + strconv.FormatInt(at.UnixNano(), 10) + ":" + strconv.FormatUint(fence, 10)
	m, _ := n.message(subject, typ, about, id, at, fence, recordHeaders)
	m.Data = data
	return m
}

// headers are those of a message to be sent. Their values share one array.
type headers struct {
	of     nats.Header
	values []string
}

// The most headers that a message has, with those that JetStream adds.
const (
	eventHeaders  = 18
	recordHeaders = 12
)

func (h *headers) set(key, value string) {
	h.values = append(h.values, value)
	n := len(h.values)
	h.of[key] = h.values[n-1 : n : n]
}

func (n Names) message(subject, typ, about, id string, at time.Time, fence uint64, most int) (*nats.Msg, *headers) {
	h := &headers{make(nats.Header, most), make([]string, 0, most)}
	h.set(hdrSpecVersion, "1.0")
	h.set(hdrID, id)
	h.set(hdrSource, "/"+n.prefix+"/"+topic.Source(about))
	h.set(hdrType, typ)
	h.set(hdrSubject, about)
	h.set(hdrTime, formatTime(at))
	h.set(hdrDataContentType, "application/json")
	h.set(hdrFence, strconv.FormatUint(fence, 10))
	h.set(nats.MsgIdHdr, id)
	return &nats.Msg{Subject: subject, Header: h.of}, h
}

func slotID(topic string, slot time.Time) string {
	return topic + ":" + strconv.FormatInt(slot.UnixMilli(), 10)
}

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// Message is one record as the stream holds it. Exactly one of Event, Fresh
// and Breaker is set; none for a reserved record that this version does not
// know.
type Message struct {
	// Seq is the stream's sequence number.
	Seq uint64
	// Stored is when the stream stored it. It is zero on a republished message
	// whose server sent no time.
	Stored  time.Time
	Event   *event.Event
	Fresh   *event.Freshness
	Breaker *event.Breaker
	// Circuits are those in the record of Fresh or Breaker.
	Circuits []event.Circuit
	// Place is that in the record of Fresh, for a poll that walks a sequence.
	Place *event.Place
}

// ErrForeign means that a message is not one of Pollcast's records.
var ErrForeign = errors.New("not a pollcast record")

// Decode reads a message that was republished or read directly from the stream.
// The event's Data shares the message's memory and must not be changed. An error
// names the subject and what is wrong. Message.Seq is set even then, if the
// message has a sequence number.
func (n Names) Decode(m *nats.Msg) (Message, error) {
	var out Message
	subject := first(m, hdrNatsSubject)
	if subject == "" {
		subject = m.Subject
	}
	bad := func(what string, err error) (Message, error) {
		return out, fmt.Errorf("message on %q: %s: %w", subject, what, err)
	}
	seq := first(m, hdrNatsSequence)
	if seq == "" {
		return bad("no "+hdrNatsSequence+" header", ErrForeign)
	}
	var err error
	if out.Seq, err = strconv.ParseUint(seq, 10, 64); err != nil {
		return bad(hdrNatsSequence, err)
	}
	if out.Stored, err = optionalTime(first(m, hdrNatsTime)); err != nil {
		return bad(hdrNatsTime, err)
	}
	about, k, ok := n.parse(subject)
	if !ok {
		return bad("subject", ErrForeign)
	}
	if want, ok := recordTypes[k]; ok && first(m, hdrType) != want {
		return bad(fmt.Sprintf("%s %q", hdrType, first(m, hdrType)), ErrForeign)
	}
	switch k {
	case kindFresh:
		r := freshRecord{Freshness: new(event.Freshness)}
		if err := json.Unmarshal(m.Data, &r); err != nil {
			return bad("freshness record", err)
		}
		out.Fresh, out.Circuits, out.Place = r.Freshness, r.Circuits, r.Place
		out.Fresh.Poll = about
	case kindBreaker:
		r := breakerRecord{Breaker: new(event.Breaker)}
		if err := json.Unmarshal(m.Data, &r); err != nil {
			return bad("breaker record", err)
		}
		out.Breaker, out.Circuits = r.Breaker, r.Circuits
		out.Breaker.Source = about
	case kindEvent:
		if err := topic.Check(about); err != nil {
			return bad("topic", err)
		}
		e, err := decodeEvent(m, about)
		if err != nil {
			return bad("event", err)
		}
		out.Event = e
	}
	return out, nil
}

// recordTypes are the types of the records that are no events.
var recordTypes = map[kind]string{kindFresh: event.TypeFresh, kindBreaker: event.TypeBreaker}

func decodeEvent(m *nats.Msg, about string) (*event.Event, error) {
	e := &event.Event{
		Topic:       about,
		Poll:        first(m, hdrPoll),
		Data:        m.Data,
		Traceparent: first(m, hdrTraceparent),
	}
	switch first(m, hdrType) {
	case event.TypeEvent, event.TypeReorganised:
		e.Reorganised = first(m, hdrType) == event.TypeReorganised
		if !json.Valid(m.Data) {
			return nil, errors.New("the payload is not JSON")
		}
	case event.TypeDeletion:
		e.Deleted, e.Data = true, nil
	default:
		return nil, fmt.Errorf("%s %q: %w", hdrType, first(m, hdrType), ErrForeign)
	}
	if e.Poll != about && !strings.HasPrefix(about, e.Poll+".") {
		return nil, fmt.Errorf("%s %q is not the topic's poll", hdrPoll, e.Poll)
	}
	var err error
	if e.Version, err = strconv.ParseUint(first(m, hdrVersion), 10, 64); err != nil {
		return nil, fmt.Errorf("%s: %w", hdrVersion, err)
	}
	if e.Fence, err = strconv.ParseUint(first(m, hdrFence), 10, 64); err != nil {
		return nil, fmt.Errorf("%s: %w", hdrFence, err)
	}
	if e.ChangedAt, err = time.Parse(time.RFC3339Nano, first(m, hdrChangedAt)); err != nil {
		return nil, fmt.Errorf("%s: %w", hdrChangedAt, err)
	}
	if e.AsOf, err = time.Parse(time.RFC3339Nano, first(m, hdrAsOf)); err != nil {
		return nil, fmt.Errorf("%s: %w", hdrAsOf, err)
	}
	if text := first(m, hdrPosition); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < -1 || n < 0 && !e.Reorganised {
			return nil, fmt.Errorf("%s %q is no position", hdrPosition, text)
		}
		e.Position = &n
	} else if e.Reorganised {
		return nil, fmt.Errorf("%s is missing", hdrPosition)
	}
	if e.Key, err = url.PathUnescape(first(m, hdrKey)); err != nil {
		return nil, fmt.Errorf("%s: %w", hdrKey, err)
	}
	if e.Upstream, err = url.PathUnescape(first(m, hdrUpstream)); err != nil {
		return nil, fmt.Errorf("%s: %w", hdrUpstream, err)
	}
	if !utf8.ValidString(e.Key) || !utf8.ValidString(e.Upstream) {
		return nil, fmt.Errorf("%s or %s: not UTF-8", hdrKey, hdrUpstream)
	}
	return e, nil
}

func first(m *nats.Msg, key string) string {
	if v := m.Header[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func optionalTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339Nano, s)
}
