package jq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/itchyny/gojq"
	"github.com/pollcast/pollcast/pkg/topic"
)

// Shape makes what is published out of an answer: one value, or a value for each key.
// The expressions run in the order select, mustAdvance.path, each, key. A Shape does not
// change and may be used by several goroutines.
type Shape struct {
	choose, Advance, each, Key *Expression // nil: not configured
	maxKeys                    int
	limit                      time.Duration // for all expressions together
}

// shaped is what Apply makes out of an answer.
type shaped struct {
	Value json.RawMessage // of a poll without keys
	Items []Item          // of a poll with keys
	Mark  any             // the part that must advance; nil: none is configured
}

// Item is the value of one key. Token is the key as a token of a topic.
type Item struct {
	Key, Token string
	Value      json.RawMessage
}

// Keyed reports whether Apply returns Items instead of a Value.
func (s *Shape) Keyed() bool { return s.each != nil }

// PassesThrough reports whether Apply returns each answer as it is.
func (s *Shape) PassesThrough() bool { return s.choose == nil && s.Advance == nil && s.each == nil }

// ShapeSpec is what NewShape needs: jq expressions, where "" is none, and bounds.
type ShapeSpec struct {
	Select, Advance, Each, Key string
	MaxKeys                    int
	Limit                      time.Duration // for all expressions together
}

// NewShape compiles the expressions. It returns an error for each that does not compile.
func NewShape(spec ShapeSpec) (*Shape, []KeyError) {
	var bad []KeyError
	s := &Shape{maxKeys: spec.MaxKeys, limit: spec.Limit}
	for _, e := range []struct {
		name, text string
		to         **Expression
	}{
		{"select", spec.Select, &s.choose}, {"each", spec.Each, &s.each},
		{"key", spec.Key, &s.Key}, {"mustAdvance.path", spec.Advance, &s.Advance},
	} {
		if e.text == "" {
			continue
		}
		var err error
		if *e.to, err = Compile(e.name, e.text); err != nil {
			bad = append(bad, KeyError{e.name, err})
		}
	}
	return s, bad
}

// KeyError is a mistake in the expression or the template under a key of the
// configuration.
type KeyError struct {
	Key string
	Err error
}

// Apply shapes an answer. It returns soon after ctx ends, or after ShapeSpec.Limit.
func (s *Shape) Apply(ctx context.Context, raw []byte) (out shaped, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	v, err := Decode(raw)
	if err != nil {
		return out, err
	}
	if s.choose != nil {
		if v, err = s.choose.One(ctx, v); err != nil {
			return out, err
		}
	}
	if s.Advance != nil {
		if out.Mark, err = s.MarkOf(ctx, v); err != nil {
			return out, err
		}
	}
	if s.each == nil {
		out.Value, err = gojq.Marshal(v)
		return out, err
	}
	out.Items, err = s.split(ctx, v)
	return out, err
}

// split makes the items of a value, with each and key.
func (s *Shape) split(ctx context.Context, v any) ([]Item, error) {
	all, err := s.each.run(ctx, v, s.maxKeys)
	if errors.Is(err, errMore) {
		return nil, fmt.Errorf("each gives more than %d items (maxKeys)", s.maxKeys)
	}
	if err != nil {
		return nil, err
	}
	seen := make(map[string]int, len(all))
	items := make([]Item, 0, len(all))
	for n, v := range all {
		k, err := s.Key.One(ctx, v)
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", n+1, err)
		}
		var it Item
		switch k := k.(type) {
		case string:
			it.Key = k
		case json.Number, int, float64:
			it.Key = fmt.Sprint(k)
		default:
			return nil, fmt.Errorf("key of item %d is %s; text or a number is needed", n+1, gojq.TypeOf(k))
		}
		it.Token = topic.EscapeKey(it.Key)
		if first := seen[it.Token]; first > 0 {
			return nil, &RedactedError{
				Public: fmt.Sprintf("items %d and %d have the same key", first, n+1),
				Full:   fmt.Sprintf("key %q comes twice, with items %d and %d", Short(it.Key), first, n+1),
			}
		}
		seen[it.Token] = n + 1
		if it.Value, err = gojq.Marshal(v); err != nil {
			return nil, fmt.Errorf("item %d: %w", n+1, err)
		}
		items = append(items, it)
	}
	return items, nil
}

// MarkOf returns the part of v that must advance: a number, which must grow, or text,
// which must become another.
func (s *Shape) MarkOf(ctx context.Context, v any) (any, error) {
	m, err := s.Advance.One(ctx, v)
	if err != nil {
		return nil, err
	}
	switch gojq.TypeOf(m) {
	case "number", "string":
		return m, nil
	}
	return nil, fmt.Errorf("mustAdvance.path gives %s; a number or text is needed", gojq.TypeOf(m))
}

// Expression is a compiled jq expression. It may be used by several goroutines.
type Expression struct {
	Name string // its key in the configuration
	code *gojq.Code
}

// Compile compiles a jq expression. name is its key in the configuration. An error says
// where in the text the mistake is. The callers of One pass the values of the variables in
// the same order.
func Compile(name, text string, variables ...string) (*Expression, error) {
	q, err := gojq.Parse(text)
	if p, ok := errors.AsType[*gojq.ParseError](err); ok {
		return nil, fmt.Errorf("%s: %w", place(text, p.Offset-len(p.Token)), err)
	}
	if err != nil {
		return nil, err
	}
	// No environment, no modules, no other input: an expression sees the answer
	// and nothing else.
	code, err := gojq.Compile(q, append(slices.Clip(functions), gojq.WithVariables(variables))...)
	if err != nil {
		// The compiler says what it does not know, but not where.
		if _, what, ok := strings.Cut(err.Error(), "not defined: "); ok {
			what, _, _ = strings.Cut(what, "/")
			if at := strings.Index(text, what); at >= 0 {
				return nil, fmt.Errorf("%s: %w", place(text, at), err)
			}
		}
		return nil, err
	}
	return &Expression{name, code}, nil
}

// place says where an offset in bytes is: line and character, counted from 1.
func place(text string, offset int) string {
	before := text[:min(max(offset, 0), len(text))]
	line := strings.Count(before, "\n") + 1
	column := len([]rune(before[strings.LastIndexByte(before, '\n')+1:])) + 1
	if line == 1 {
		return fmt.Sprintf("at character %d", column)
	}
	return fmt.Sprintf("at line %d, character %d", line, column)
}

// errMore says that an expression gives more values than the caller allows.
var errMore = errors.New("too many results")

// run returns what the expression gives for v; errMore if that is more than most values.
func (e *Expression) run(ctx context.Context, v any, most int, vars ...any) ([]any, error) {
	var out []any
	results := e.code.RunWithContext(ctx, v, vars...)
	for {
		r, ok := results.Next()
		if !ok {
			return out, nil
		}
		if err, failed := r.(error); failed {
			if errors.Is(err, context.DeadlineExceeded) {
				return nil, fmt.Errorf("%s takes too long", e.Name)
			}
			return nil, e.failed(err)
		}
		if len(out) == most {
			return nil, errMore
		}
		out = append(out, r)
	}
}

// One returns what the expression gives for v. It is an error if that is not exactly one
// value.
func (e *Expression) One(ctx context.Context, v any, vars ...any) (any, error) {
	out, err := e.run(ctx, v, 1, vars...)
	switch {
	case errors.Is(err, errMore):
		return nil, fmt.Errorf("%s gives several values; put it into [ ] for a list", e.Name)
	case err != nil:
		return nil, err
	case len(out) == 0:
		return nil, fmt.Errorf("%s gives no value", e.Name)
	}
	return out[0], nil
}

// Short returns s for an error text: its first 40 characters, with … for the rest.
func Short(s string) string {
	if r := []rune(s); len(r) > 40 {
		return string(r[:40]) + "…"
	}
	return s
}
