package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// msgGet is a request for one message, in the server's field names. Exactly one
// message is meant: the one with Seq, the last one on LastFor, or the first one
// at or after Seq that NextFor matches.
type msgGet struct {
	Seq     uint64 `json:"seq,omitempty"`
	LastFor string `json:"last_by_subj,omitempty"`
	NextFor string `json:"next_by_subj,omitempty"`
}

// LastOn reads the last message on a subject, at the stream's leader. See get.
func (n Names) LastOn(ctx context.Context, nc *nats.Conn, subject string) (Message, error) {
	return n.getRecord(ctx, nc, msgGet{LastFor: subject})
}

// StoredAt reads the message with a sequence number, at the stream's leader. See
// get.
func (n Names) StoredAt(ctx context.Context, nc *nats.Conn, seq uint64) (Message, error) {
	return n.getRecord(ctx, nc, msgGet{Seq: seq})
}

// getRecord is get for a record. It returns the zero Message when there is no
// message, and a Message with nothing but Seq when it is not a record.
func (n Names) getRecord(ctx context.Context, nc *nats.Conn, what msgGet) (Message, error) {
	m, seq, err := n.get(ctx, nc, what)
	if err != nil || m == nil {
		return Message{}, err
	}
	out, err := n.Decode(m)
	if err != nil {
		return Message{Seq: seq}, nil
	}
	return out, nil
}

// get reads one message at the stream's leader, which knows everything that is
// stored. (A direct get may be answered by a replica that lags behind, and
// jetstream's Stream.GetMsg uses direct get as soon as the stream allows it.)
// The message has the headers that a direct get sets. It is nil when the stream
// holds no such message.
func (n Names) get(ctx context.Context, nc *nats.Conn, what msgGet) (*nats.Msg, uint64, error) {
	fail := func(err error) (*nats.Msg, uint64, error) {
		return nil, 0, fmt.Errorf("get a message from the stream's leader: %w", err)
	}
	body, err := json.Marshal(what)
	if err != nil {
		return fail(err)
	}
	reply, err := nc.RequestWithContext(ctx, n.api+"STREAM.MSG.GET."+n.Stream(), body)
	if err != nil {
		return fail(err)
	}
	var got struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &got); err != nil {
		return fail(err)
	}
	if e := got.Error; e != nil {
		if e.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return nil, 0, nil
		}
		return fail(e)
	}
	m := &nats.Msg{Subject: got.Message.Subject, Data: got.Message.Data, Header: nats.Header{}}
	if len(got.Message.Header) > 0 {
		if m.Header, err = nats.DecodeHeadersMsg(got.Message.Header); err != nil {
			return fail(err)
		}
	}
	set(m, hdrNatsSubject, got.Message.Subject)
	set(m, hdrNatsSequence, strconv.FormatUint(got.Message.Seq, 10))
	set(m, hdrNatsTime, formatTime(got.Message.Time))
	return m, got.Message.Seq, nil
}

func set(m *nats.Msg, key, value string) { m.Header[key] = []string{value} }
