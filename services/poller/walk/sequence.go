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

// sequence is what a poll follows, as it is configured.
type Sequence struct {
	Follow   config.Follow
	first    int64        // to begin with; -1: the head
	position *jq.Question // for a position; the poll's own question is for the head
	head     *jq.Expression
	id       *jq.Expression // nil: positions have none
	parent   *jq.Expression
	limit    time.Duration // of one expression
}

func NewSequence(p config.Poll) (*Sequence, *jq.Question, error) {
	s := &Sequence{Follow: p.Follow.WithDefaults(), limit: p.JqLimit()}
	var err error
	if s.first, err = s.Follow.First(); err != nil {
		return nil, nil, fmt.Errorf("follow.start: %w", err)
	}
	for _, e := range []struct {
		name, text string
		to         **jq.Expression
	}{{"follow.head.select", s.Follow.Head.Select, &s.head}, {"follow.id", s.Follow.ID, &s.id}, {"follow.parent", s.Follow.Parent, &s.parent}} {
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

// cursorOf is where an event stands.
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
			c.Id = string(v.Reorganised.ID)
		}
	default:
		c.Id, _ = s.idOf(ctx, s.id, e.Data) // published by another configuration
	}
	return c
}

// idOf is what an expression gives for a value, as JSON.
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
	if len(id) > maxID {
		return "", fmt.Errorf("%s gives more than %d bytes", e.Name, maxID)
	}
	return string(id), err
}

// headOf reads the head out of an answer.
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
