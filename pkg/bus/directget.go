package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Direct get (NATS ADR-31) reads the stream without a consumer: any gateway can
// read any range at any time, and the server keeps nothing about it.
const (
	// maxMultiLast is the most subjects a server answers in one multi_last.
	maxMultiLast = 1024
	// rangeBatch and rangeBytes bound one answer of a range read.
	rangeBatch = 1000
	rangeBytes = 4 << 20
)

// directGet is the request, in the server's field names.
type directGet struct {
	Seq       uint64   `json:"seq,omitempty"`
	NextFor   string   `json:"next_by_subj,omitempty"`
	MultiLast []string `json:"multi_last,omitempty"`
	UpToSeq   uint64   `json:"up_to_seq,omitempty"`
	Batch     int      `json:"batch,omitempty"`
	MaxBytes  int      `json:"max_bytes,omitempty"`
}

var errTooManySubjects = errors.New("more subjects than one direct get answers")

// read sends one request and calls each for every message of the answer. It
// returns how many more messages the range holds.
func (n Names) read(ctx context.Context, nc *nats.Conn, req directGet, each func(*nats.Msg)) (pending int, err error) {
	body, err := json.Marshal(req)
	if err != nil {
		return 0, err
	}
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return 0, fmt.Errorf("direct get: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is gone, and the subscription with it
	if err := nc.PublishRequest("$JS.API.DIRECT.GET."+n.Stream(), inbox, body); err != nil {
		return 0, fmt.Errorf("direct get: %w", err)
	}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return 0, fmt.Errorf("direct get: %w", err)
		}
		switch status := m.Header.Get("Status"); status {
		case "":
			each(m)
		case "204": // end of batch
			pending, err := strconv.Atoi(m.Header.Get("Nats-Num-Pending"))
			if err != nil {
				return 0, fmt.Errorf("direct get: number of pending messages: %w", err)
			}
			return pending, nil
		case "404": // nothing there
			return 0, nil
		case "413":
			return 0, errTooManySubjects
		case "503":
			return 0, fmt.Errorf("direct get: %w", nats.ErrNoResponders)
		default:
			return 0, fmt.Errorf("direct get: status %s %s", status, m.Header.Get("Description"))
		}
	}
}

// Range calls each for every stored message from..to (both included) whose
// subject matches filter, in the stream's order.
func (n Names) Range(ctx context.Context, nc *nats.Conn, filter string, from, to uint64, each func(*nats.Msg)) error {
	for from <= to {
		last := uint64(0)
		pending, err := n.read(ctx, nc, directGet{
			Seq: from, NextFor: filter, Batch: rangeBatch, MaxBytes: rangeBytes,
		}, func(m *nats.Msg) {
			seq, err := strconv.ParseUint(first(m, hdrNatsSequence), 10, 64)
			if err != nil {
				return // a server that numbers nothing; the range then ends below
			}
			last = seq
			if seq <= to {
				each(m)
			}
		})
		if err != nil {
			return err
		}
		if pending == 0 || last == 0 || last >= to {
			return nil
		}
		from = last + 1
	}
	return nil
}

// LastPerSubject calls each for the last message at or before upTo of every
// subject that the filter matches, in no particular order. It pages where the
// subjects are more than one answer holds.
func (n Names) LastPerSubject(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, filter string, upTo uint64, each func(*nats.Msg)) error {
	last := func(subjects []string) error {
		pending, err := n.read(ctx, nc, directGet{MultiLast: subjects, UpToSeq: upTo, Batch: maxMultiLast, MaxBytes: 1 << 30}, each)
		if err == nil && pending > 0 {
			err = fmt.Errorf("direct get: %d messages missing from the answer", pending)
		}
		return err
	}
	err := last([]string{filter})
	if !errors.Is(err, errTooManySubjects) {
		return err
	}
	s, err := js.Stream(ctx, n.Stream())
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", n.Stream(), err)
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(filter))
	if err != nil {
		return fmt.Errorf("list subjects of stream %s: %w", n.Stream(), err)
	}
	subjects := make([]string, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		subjects = append(subjects, subject)
	}
	for page := range slices.Chunk(subjects, maxMultiLast) {
		if err := last(page); err != nil {
			return err
		}
	}
	return nil
}

// StoredAt returns when the stream took the first message at or after seq that
// it still holds; the zero time when there is none.
func (f *Follower) StoredAt(ctx context.Context, seq uint64) (time.Time, error) {
	var at time.Time
	var bad error
	_, err := f.Names.read(ctx, f.Conn, directGet{Seq: seq, NextFor: f.Names.InAll(), Batch: 1}, func(m *nats.Msg) {
		at, bad = optionalTime(first(m, hdrNatsTime))
	})
	return at, errors.Join(err, bad)
}

// Events returns the events from..to (both included) of topics that any of the
// patterns matches, each once, in the order of the patterns and then of the
// stream. It stops after limit events.
func (f *Follower) Events(ctx context.Context, patterns []string, from, to uint64, limit int) ([]Message, error) {
	var out []Message
	seen := map[uint64]bool{}
	for _, p := range patterns {
		err := f.Names.Range(ctx, f.Conn, f.Names.In(p), from, to, func(m *nats.Msg) {
			d, err := f.Names.Decode(m)
			if err != nil || d.Event == nil || seen[d.Seq] || len(out) >= limit {
				return
			}
			seen[d.Seq] = true
			out = append(out, d)
		})
		if err != nil {
			return nil, err
		}
		if len(out) >= limit {
			break
		}
	}
	return out, nil
}
