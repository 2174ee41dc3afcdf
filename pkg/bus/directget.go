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
// read any range at any time, and the server keeps no state for it.
//
// On a cluster any replica may answer, also one that lags behind the leader. Its
// answer does not show that messages are missing. So no function here takes the
// end of an answer for the end of the stream without asking the leader.
const (
	// maxMultiLast is the most subjects a server answers in one multi_last.
	maxMultiLast = 1024
	// rangeBatch and rangeBytes bound one answer of a range read.
	rangeBatch = 1000
	rangeBytes = 4 << 20
	// answerWait is how long a replica may be silent before another is asked.
	answerWait = 2 * time.Second
	// lagPause is how long to wait for a replica that lags, and lagPauses how
	// often. After that the message counts as missing in the stream.
	lagPause  = 50 * time.Millisecond
	lagPauses = 40
)

// directGet is the request, in the server's field names.
type directGet struct {
	Seq       uint64     `json:"seq,omitempty"`
	StartTime *time.Time `json:"start_time,omitempty"`
	NextFor   string     `json:"next_by_subj,omitempty"`
	MultiLast []string   `json:"multi_last,omitempty"`
	UpToSeq   uint64     `json:"up_to_seq,omitempty"`
	Batch     int        `json:"batch,omitempty"`
	MaxBytes  int        `json:"max_bytes,omitempty"`
}

var errTooManySubjects = errors.New("more subjects than one direct get answers")

// answer is what the last message of a direct get's answer holds.
type answer struct {
	pending int    // messages of the range that are not in the answer
	upTo    uint64 // position of the replica; only for multi_last
	none    bool   // the answer holds no message
}

// read sends one request and calls each for every message of the answer.
func (n Names) read(
	ctx context.Context, nc *nats.Conn, req directGet, each func(*nats.Msg),
) (a answer, err error) {
	fail := func(err error) (answer, error) { return a, fmt.Errorf("direct get: %w", err) }
	body, err := json.Marshal(req)
	if err != nil {
		return fail(err)
	}
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is closed, which ends the subscription
	if err := nc.PublishRequest(n.api+"DIRECT.GET."+n.Stream(), inbox, body); err != nil {
		return fail(err)
	}
	for {
		wait, cancel := context.WithTimeout(ctx, answerWait)
		m, err := sub.NextMsgWithContext(wait)
		cancel()
		if err != nil {
			return fail(err)
		}
		switch status := m.Header.Get("Status"); status {
		case "":
			each(m)
		case "204": // end of batch
			if a.pending, err = strconv.Atoi(m.Header.Get("Nats-Num-Pending")); err != nil {
				return fail(fmt.Errorf("number of pending messages: %w", err))
			}
			if at := m.Header.Get("Nats-UpTo-Sequence"); at != "" {
				if a.upTo, err = strconv.ParseUint(at, 10, 64); err != nil {
					return fail(fmt.Errorf("position: %w", err))
				}
			}
			return a, nil
		case "404": // no message matches
			a.none = true
			return a, nil
		case "413":
			return a, errTooManySubjects
		case "503":
			return fail(nats.ErrNoResponders)
		default:
			return fail(fmt.Errorf("status %s %s", status, m.Header.Get("Description")))
		}
	}
}

// Range calls each for every stored message from..to (both included) whose
// subject matches filter, in the stream's order. The stream must have stored
// the message to; it may have deleted it since.
func (n Names) Range(ctx context.Context, nc *nats.Conn, filter string, from, to uint64, each func(*nats.Msg)) error {
	for pauses := 0; from <= to; {
		last := uint64(0)
		a, err := n.read(ctx, nc, directGet{
			Seq: from, NextFor: filter, Batch: int(min(rangeBatch, to-from+1)), MaxBytes: rangeBytes,
		}, func(m *nats.Msg) {
			seq, err := strconv.ParseUint(first(m, hdrNatsSequence), 10, 64)
			if err != nil || seq < from {
				return // without a number it is no message of the stream
			}
			last, from = seq, seq+1
			if seq <= to {
				each(m)
			}
		})
		if err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)) {
			return err
		}
		if last >= to {
			return nil
		}
		if err != nil || a.pending > 0 && last > 0 {
			continue // read on after the last message; another replica may answer
		}
		// Either the stream holds no more of these, or the replica lags behind.
		m, seq, err := n.next(ctx, nc, filter, from)
		switch {
		case err != nil:
			return err
		case m != nil && seq <= to:
			each(m)
			from = seq + 1
		case m == nil && filter == n.InAll() && pauses < lagPauses:
			// The stream has stored the message to, but this leader has no message
			// after from: it may be a former leader.
			pauses++
			if err := pause(ctx); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	return nil
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("direct get: %w", ctx.Err())
	case <-time.After(lagPause):
		return nil
	}
}

// next asks the stream's leader, which never lags, for the first message at or
// after from whose subject matches filter. It returns nil when there is none.
func (n Names) next(ctx context.Context, nc *nats.Conn, filter string, from uint64) (*nats.Msg, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	return n.get(ctx, nc, msgGet{Seq: from, NextFor: filter})
}

// LastPerSubject calls each for the last message of every subject that the
// filter matches, in no particular order. It returns the position at which they
// are the last ones. That is atLeast or higher; the stream must have stored the
// message atLeast. Many subjects are read in pages.
func (n Names) LastPerSubject(
	ctx context.Context, nc *nats.Conn, js jetstream.JetStream, filter string, atLeast uint64, each func(*nats.Msg),
) (at uint64, err error) {
	at, msgs, err := n.lastOf(ctx, nc, []string{filter}, atLeast)
	if errors.Is(err, errTooManySubjects) {
		at, msgs, err = n.lastPages(ctx, nc, js, filter, atLeast)
	}
	if err != nil {
		return 0, err
	}
	for _, m := range msgs {
		each(m)
	}
	return at, nil
}

// lastOf reads one page. All its messages come from one replica, at that
// replica's position.
func (n Names) lastOf(
	ctx context.Context, nc *nats.Conn, subjects []string, atLeast uint64,
) (at uint64, msgs []*nats.Msg, err error) {
	page := directGet{MultiLast: subjects, Batch: maxMultiLast, MaxBytes: 1 << 30}
	for pauses := 0; ; pauses++ {
		msgs = msgs[:0]
		a, err := n.read(ctx, nc, page, func(m *nats.Msg) { msgs = append(msgs, m) })
		switch {
		case err != nil:
			return 0, nil, err
		case a.pending > 0:
			return 0, nil, fmt.Errorf("direct get: %d messages missing from the answer", a.pending)
		case a.none: // at this replica, which may lag behind
			m, _, err := n.next(ctx, nc, subjects[0], 1)
			if err != nil {
				return 0, nil, err
			}
			if m == nil && (len(subjects) == 1 || pauses >= lagPauses) {
				return atLeast, nil, nil
			}
		case a.upTo >= atLeast:
			return a.upTo, msgs, nil
		}
		if err := pause(ctx); err != nil {
			return 0, nil, err
		}
	}
}

// lastPages reads as many pages as the subjects take. Each page is at a position
// of its own. The messages between the lowest and the highest position are read
// at the end.
func (n Names) lastPages(
	ctx context.Context, nc *nats.Conn, js jetstream.JetStream, filter string, atLeast uint64,
) (at uint64, out []*nats.Msg, err error) {
	s, err := js.Stream(ctx, n.Stream())
	if err != nil {
		return 0, nil, fmt.Errorf("look up stream %s: %w", n.Stream(), err)
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(filter))
	if err != nil {
		return 0, nil, fmt.Errorf("list subjects of stream %s: %w", n.Stream(), err)
	}
	// A subject that is not listed has its first message after this position.
	from := max(atLeast, info.State.LastSeq)
	at = from
	subjects := make([]string, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		subjects = append(subjects, subject)
	}
	last := make(map[string]*nats.Msg, len(subjects))
	keep := func(m *nats.Msg) { last[first(m, hdrNatsSubject)] = m }
	for page := range slices.Chunk(subjects, maxMultiLast) {
		upTo, msgs, err := n.lastOf(ctx, nc, page, from)
		if err != nil {
			return 0, nil, err
		}
		for _, m := range msgs {
			keep(m)
		}
		at = max(at, upTo)
	}
	if err := n.Range(ctx, nc, filter, from+1, at, keep); err != nil {
		return 0, nil, err
	}
	for _, m := range last {
		out = append(out, m)
	}
	return at, out, nil
}

// StoredSince returns the sequence number of the first message that the stream
// stored at the time at or later and still holds. It is 0 when there is none.
func (f *Follower) StoredSince(ctx context.Context, at time.Time) (seq uint64, err error) {
	at = at.UTC()
	var bad error
	req := directGet{StartTime: &at, NextFor: f.Names.InAll(), Batch: 1}
	_, err = f.Names.read(ctx, f.Conn.NATS(), req, func(m *nats.Msg) {
		seq, bad = strconv.ParseUint(first(m, hdrNatsSequence), 10, 64)
	})
	return seq, errors.Join(err, bad)
}

// Events calls each for every event from..to (both included) whose topic any of
// the patterns matches, in the order of the patterns and then of the stream. An
// event that several patterns match comes once for each of them.
func (f *Follower) Events(ctx context.Context, patterns []string, from, to uint64, each func(Message)) error {
	for _, p := range patterns {
		err := f.Names.Range(ctx, f.Conn.NATS(), f.Names.In(p), from, to, func(m *nats.Msg) {
			if d, err := f.Names.Decode(m); err == nil && d.Event != nil {
				each(d)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}
