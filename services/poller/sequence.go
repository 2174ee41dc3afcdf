package poller

import (
	"context"
	"encoding/json"
	"fmt"
	"math/big"
	"time"

	"github.com/itchyny/gojq"
	"github.com/pollcast/pollcast/pkg/event"
)

// sequence is what a poll follows, as it is configured.
type sequence struct {
	follow   Follow
	first    int64     // to begin with; -1: the head
	position *question // for a position; the poll's own question is for the head
	head     *expression
	id       *expression // nil: positions have none
	parent   *expression
	limit    time.Duration // of one expression
}

func newSequence(p Poll) (*sequence, *question, error) {
	s := &sequence{follow: p.Follow.withDefaults(), limit: p.jqLimit()}
	var err error
	if s.first, err = s.follow.first(); err != nil {
		return nil, nil, fmt.Errorf("follow.start: %w", err)
	}
	for _, e := range []struct {
		name, text string
		to         **expression
	}{{"follow.head.select", s.follow.Head.Select, &s.head}, {"follow.id", s.follow.ID, &s.id}, {"follow.parent", s.follow.Parent, &s.parent}} {
		if e.text == "" {
			continue
		}
		if *e.to, err = compile(e.name, e.text); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", e.name, err)
		}
	}
	var bad []keyError
	if s.position, bad = p.question(); len(bad) > 0 {
		return nil, nil, fmt.Errorf("%s: %w", bad[0].key, bad[0].err)
	}
	head, bad := p.headQuestion()
	if len(bad) > 0 {
		return nil, nil, fmt.Errorf("follow.head.%s: %w", bad[0].key, bad[0].err)
	}
	return s, head, nil
}

// cursorOf is where an event stands.
func (s *sequence) cursorOf(ctx context.Context, e *event.Event) cursor {
	if e == nil || e.Position == nil {
		return cursor{}
	}
	c := cursor{known: true, position: *e.Position, version: e.Version}
	switch {
	case s.id == nil:
	case e.Reorganised:
		var v event.Reorganisation
		if json.Unmarshal(e.Data, &v) == nil {
			c.id = string(v.Reorganised.ID)
		}
	default:
		c.id, _ = s.idOf(ctx, s.id, e.Data) // published by another configuration
	}
	return c
}

// idOf is what an expression gives for a value, as JSON.
func (s *sequence) idOf(ctx context.Context, e *expression, value json.RawMessage) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	v, err := decode(value)
	if err != nil {
		return "", err
	}
	if v, err = e.one(ctx, v); err != nil {
		return "", err
	}
	if v == nil {
		return "", fmt.Errorf("%s gives null", e.name)
	}
	id, err := gojq.Marshal(v)
	if len(id) > maxID {
		return "", fmt.Errorf("%s gives more than %d bytes", e.name, maxID)
	}
	return string(id), err
}

// headOf reads the head out of an answer.
func (s *sequence) headOf(ctx context.Context, raw json.RawMessage) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	v, err := decode(raw)
	if err != nil {
		return 0, err
	}
	if s.head != nil {
		if v, err = s.head.one(ctx, v); err != nil {
			return 0, err
		}
	}
	n := new(big.Int)
	switch v := v.(type) {
	case int:
		n.SetInt64(int64(v))
	case json.Number:
		if _, ok := n.SetString(v.String(), 10); !ok {
			return 0, fmt.Errorf("the head is %s, which is no position", short(v.String()))
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
	if n.Sign() < 0 || !n.IsInt64() || n.Int64() > maxPosition {
		return 0, fmt.Errorf("the head is %s, which is no position", short(n.String()))
	}
	return n.Int64(), nil
}
