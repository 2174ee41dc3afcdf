package walk

import (
	"context"
	"encoding/json"
	"fmt"
	"math/big"
	"time"

	"github.com/itchyny/gojq"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/jq"
)

// maxIDLength bounds the id of a position, in bytes of JSON.
const maxIDLength = 1 << 10

// Sequence is what a poll follows, as it is configured. It does not change.
type Sequence struct {
	Follow   config.Follow
	first    int64          // position to begin with; -1: the head
	position *jq.Question   // asks for a position; the poll's own question asks for the head
	head     *jq.Expression // nil: the answer is the head
	id       *jq.Expression // nil: positions have no id
	parent   *jq.Expression // gives the id of the position before; nil without id
	limit    time.Duration  // of one expression
}

// NewSequence makes the sequence of a poll, and the question for its head. The error
// names the setting that is wrong.
func NewSequence(p config.Poll) (*Sequence, *jq.Question, error) {
	s := &Sequence{Follow: p.Follow.WithDefaults(), limit: p.JqLimit()}
	var err error
	if s.first, err = s.Follow.First(); err != nil {
		return nil, nil, fmt.Errorf("follow.start: %w", err)
	}
	for _, e := range []struct {
		name, text string
		to         **jq.Expression
	}{
		{"follow.head.select", s.Follow.Head.Select, &s.head},
		{"follow.id", s.Follow.ID, &s.id},
		{"follow.parent", s.Follow.Parent, &s.parent},
	} {
		if e.text == "" {
			continue
		}
		if *e.to, err = jq.Compile(e.name, e.text); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", e.name, err)
		}
	}
	var bad []jq.KeyError
	if s.position, bad = p.Question(); len(bad) > 0 {
		return nil, nil, fmt.Errorf("%s: %w", bad[0].Key, bad[0].Err)
	}
	head, bad := p.HeadQuestion()
	if len(bad) > 0 {
		return nil, nil, fmt.Errorf("follow.head.%s: %w", bad[0].Key, bad[0].Err)
	}
	return s, head, nil
}

// CursorOf returns the place of an event in the sequence. It is not Known if the event
// has no position, or is nil. Its ID is empty if another configuration published it.
func (s *Sequence) CursorOf(ctx context.Context, e *event.Event) Cursor {
	if e == nil || e.Position == nil {
		return Cursor{}
	}
	c := Cursor{Known: true, Position: *e.Position, Version: e.Version}
	switch {
	case s.id == nil:
	case e.Reorganised:
		var v event.Reorganisation
		if json.Unmarshal(e.Data, &v) == nil {
			c.ID = string(v.Reorganised.ID)
		}
	default:
		c.ID, _ = s.idOf(ctx, s.id, e.Data)
	}
	return c
}

// idOf returns what an expression gives for a value, as JSON. null is an error.
func (s *Sequence) idOf(ctx context.Context, e *jq.Expression, value json.RawMessage) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	v, err := jq.Decode(value)
	if err != nil {
		return "", err
	}
	if v, err = e.One(ctx, v); err != nil {
		return "", err
	}
	if v == nil {
		return "", fmt.Errorf("%s gives null", e.Name)
	}
	id, err := gojq.Marshal(v)
	if len(id) > maxIDLength {
		return "", fmt.Errorf("%s gives more than %d bytes", e.Name, maxIDLength)
	}
	return string(id), err
}

// HeadOf reads the head from an answer. It is a number from 0 to config.MaxPosition.
func (s *Sequence) HeadOf(ctx context.Context, raw json.RawMessage) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	v, err := jq.Decode(raw)
	if err != nil {
		return 0, err
	}
	if s.head != nil {
		if v, err = s.head.One(ctx, v); err != nil {
			return 0, err
		}
	}
	return position(v)
}

// position reads a position from a decoded JSON number.
func position(v any) (int64, error) {
	n := new(big.Int)
	switch v := v.(type) {
	case int:
		n.SetInt64(int64(v))
	case json.Number:
		if _, ok := n.SetString(v.String(), 10); !ok {
			return 0, fmt.Errorf("the head is %s, which is no position", jq.Short(v.String()))
		}
	case *big.Int:
		n = v
	case float64:
		if big.NewFloat(v).IsInt() {
			big.NewFloat(v).Int(n)
		} else {
			return 0, fmt.Errorf("the head is %v, which is no position", v)
		}
	default:
		return 0, fmt.Errorf("the head is %s; a number is needed (follow.head.select)", gojq.TypeOf(v))
	}
	if n.Sign() < 0 || !n.IsInt64() || n.Int64() > config.MaxPosition {
		return 0, fmt.Errorf("the head is %s, which is no position", jq.Short(n.String()))
	}
	return n.Int64(), nil
}
