package jq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/itchyny/gojq"
	"github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/services/poller/source"
)

// Variables of templates, in the order in which Moment gives their values. A poll with
// keys has no $prev, because it has a previous value for each key.
var (
	PollVariables  = []string{"$now", "$slot", "$prev"}
	KeyedVariables = []string{"$now", "$slot"}
)

// maxRequest bounds what templates make of one request, in bytes.
const maxRequest = 1 << 20

// template is a text that holds {{ jq }}. A text that is one expression and nothing else
// becomes what the expression gives, of any type. Otherwise the results become text.
type template struct {
	key   string // in the configuration
	parts []templatePart
}

// templatePart is an expression or the text before one.
type templatePart struct {
	text string
	expr *Expression // nil: text
}

// whole reports whether the text is one expression and nothing else.
func (t *template) whole() bool { return len(t.parts) == 1 }

// Literals returns the parts of a text outside {{ }}, and the texts in quotes inside.
func Literals(text string) []string {
	var all []string
	for text != "" {
		before, after, found := strings.Cut(text, "{{")
		all = append(all, before)
		if !found {
			return all
		}
		code, rest, _ := cutExpression(after)
		for _, m := range quoted.FindAllStringSubmatch(code, -1) {
			all = append(all, m[1])
		}
		text = rest
	}
	return all
}

var quoted = regexp.MustCompile(`"((?:[^"\\]|\\.)*)"`)

// cutExpression cuts text at the }} that ends its first expression. Objects and texts in
// the expression may hold }} as well, so it takes the first }} that leaves valid jq before it.
func cutExpression(text string) (code, rest string, found bool) {
	for from := 0; ; {
		i := strings.Index(text[from:], "}}")
		if i < 0 {
			break
		}
		if _, err := gojq.Parse(text[:from+i]); err == nil {
			return text[:from+i], text[from+i+2:], true
		}
		from += i + 1
	}
	return strings.Cut(text, "}}")
}

// parseTemplate returns nil for a text without expressions.
func parseTemplate(key, text string, variables []string) (*template, error) {
	if !strings.Contains(text, "{{") {
		return nil, nil
	}
	t := &template{key: key}
	for text != "" {
		before, after, found := strings.Cut(text, "{{")
		if before != "" {
			t.parts = append(t.parts, templatePart{text: before})
		}
		if !found {
			break
		}
		code, rest, found := cutExpression(after)
		if !found {
			return nil, errors.New(`{{ has no }}; {{ "{{" }} writes the characters themselves`)
		}
		expr, err := Compile(key, code, variables...)
		if err != nil {
			return nil, fmt.Errorf("in {{ … }}: %w", err)
		}
		t.parts = append(t.parts, templatePart{expr: expr})
		text = rest
	}
	return t, nil
}

// value returns what the text becomes.
func (t *template) value(ctx context.Context, vars []any) (any, error) {
	if t.whole() {
		return t.parts[0].expr.One(ctx, nil, vars...)
	}
	return t.text(ctx, vars, func(s string) (string, error) { return s, nil })
}

// text returns what the text becomes where only text fits. put encodes the result of each
// expression.
func (t *template) text(ctx context.Context, vars []any, put func(string) (string, error)) (string, error) {
	var b strings.Builder
	for _, p := range t.parts {
		if p.expr == nil {
			b.WriteString(p.text)
			continue
		}
		v, err := p.expr.One(ctx, nil, vars...)
		if err != nil {
			return "", err
		}
		var s string
		switch v := v.(type) {
		case string:
			s = v
		case nil:
			return "", fmt.Errorf("%s gives null, which is no text", t.key)
		default:
			data, err := gojq.Marshal(v)
			if err != nil {
				return "", fmt.Errorf("%s: %w", t.key, err)
			}
			s = string(data)
		}
		if s, err = put(s); err != nil {
			return "", fmt.Errorf("%s %w", t.key, err)
		}
		if b.WriteString(s); b.Len() > maxRequest {
			return "", errTooLong
		}
	}
	return b.String(), nil
}

var errTooLong = errors.New("the templates make a request of more than 1 MiB")

// Question is a request with its templates compiled. It does not change and may be used by
// several goroutines.
type Question struct {
	// Plain is the call without what templates make.
	Plain        source.Call
	variables    []string
	params, body any // trees that hold *template; nil: none
	path         *template
	query        map[string]*template
	limit        time.Duration // for all expressions together
}

// Request is the part of the configuration that says what to ask.
type Request struct {
	Method       string
	Params, Body any
	Path         string
	Query        map[string]config.Secret
	Headers      map[string]config.Secret
}

// NewQuestion compiles the templates of a request. limit bounds the time of one Call. It
// returns an error for each template that does not compile.
func NewQuestion(a Request, variables []string, limit time.Duration) (*Question, []KeyError) {
	var bad []KeyError
	q := &Question{Plain: source.Call{Method: a.Method}, variables: variables, limit: limit}
	parse := func(key, text string) *template {
		t, err := parseTemplate(key, text, variables)
		if err != nil {
			bad = append(bad, KeyError{key, err})
		}
		return t
	}
	if q.params = parseTree("params", a.Params, parse); q.params == nil {
		q.Plain.Params = jsonOf(a.Params)
	}
	if q.body = parseTree("body", a.Body, parse); q.body == nil {
		q.Plain.Body = jsonOf(a.Body)
	}
	if q.path = parse("path", a.Path); q.path == nil {
		q.Plain.Path = a.Path
	}
	for _, k := range slices.Sorted(maps.Keys(a.Query)) {
		if q.Plain.Query == nil {
			q.Plain.Query = url.Values{}
		}
		if t := parse("query."+k, a.Query[k].Reveal()); t != nil {
			if q.query == nil {
				q.query = map[string]*template{}
			}
			q.query[k] = t
		} else {
			q.Plain.Query.Set(k, a.Query[k].Reveal())
		}
	}
	for k, v := range a.Headers {
		if q.Plain.Header == nil {
			q.Plain.Header = http.Header{}
		}
		q.Plain.Header.Set(k, v.Reveal())
	}
	return q, bad
}

// parseTree replaces the texts with expressions in a value by templates. It
// returns nil if there are none.
func parseTree(key string, v any, parse func(key, text string) *template) any {
	data, err := json.Marshal(v)
	if err != nil {
		return nil // reported by the check of the poll
	}
	tree, err := Decode(data)
	if err != nil {
		return nil
	}
	found := false
	var walk func(string, any) any
	walk = func(key string, v any) any {
		switch v := v.(type) {
		case string:
			if t := parse(key, v); t != nil {
				found = true
				return t
			}
		case []any:
			for i := range v {
				v[i] = walk(key+"["+strconv.Itoa(i)+"]", v[i])
			}
		case map[string]any:
			for _, k := range slices.Sorted(maps.Keys(v)) {
				v[k] = walk(key+"."+k, v[k])
			}
		}
		return v
	}
	if tree = walk(key, tree); !found {
		return nil
	}
	return tree
}

// Constant reports whether the request is the same at every tick.
func (q *Question) Constant() bool {
	return q.params == nil && q.body == nil && q.path == nil && q.query == nil
}

// Sample returns the call with placeholders for what the templates make, so that a driver
// can check it.
func (q *Question) Sample() source.Call {
	c := q.Plain
	if q.params != nil {
		c.Params = sampleOf(q.params)
	}
	if q.body != nil {
		c.Body = sampleOf(q.body)
	}
	if q.path != nil {
		for _, p := range q.path.parts {
			if c.Path += p.text; p.expr != nil {
				c.Path += "0"
			}
		}
	}
	c.Query = maps.Clone(c.Query)
	for k := range q.query {
		c.Query.Set(k, "0")
	}
	return c
}

func sampleOf(tree any) json.RawMessage {
	if _, ok := tree.(*template); ok {
		return json.RawMessage("[]") // of any type
	}
	data, err := gojq.Marshal(fill(tree, func(*template) any { return "0" }))
	if err != nil {
		return nil
	}
	return data
}

// fill copies a tree with its templates replaced.
func fill(v any, by func(*template) any) any {
	switch v := v.(type) {
	case *template:
		return by(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = fill(v[i], by)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k := range v {
			out[k] = fill(v[k], by)
		}
		return out
	}
	return v
}

// Moment holds the values of the variables of templates at one tick.
type Moment struct {
	Now, Slot time.Time
	Prev      json.RawMessage // nil: none yet
	Position  int64           // of a walk
}

// values returns the values of the named variables, in the same order.
func (m Moment) values(names []string) []any {
	all := make([]any, len(names))
	for i, name := range names {
		switch name {
		case "$now":
			all[i] = seconds(m.Now)
		case "$slot":
			all[i] = seconds(m.Slot)
		case "$prev":
			if m.Prev != nil {
				all[i], _ = Decode(m.Prev) // was valid when it was kept
			}
		case "$position":
			all[i] = int(m.Position)
		}
	}
	return all
}

// seconds since the Unix epoch, whole ones as an integer.
func seconds(t time.Time) any {
	if t.Nanosecond() == 0 {
		return int(t.Unix())
	}
	return float64(t.UnixMilli()) / 1000
}

// Call returns the call at a moment. An error names the template.
func (q *Question) Call(ctx context.Context, m Moment) (source.Call, error) {
	c := q.Plain
	if q.Constant() {
		return c, nil
	}
	vars := m.values(q.variables)
	ctx, cancel := context.WithTimeout(ctx, q.limit)
	defer cancel()
	var err error
	tree := func(t any) json.RawMessage {
		filled := fill(t, func(t *template) any {
			if err != nil {
				return nil
			}
			var v any
			v, err = t.value(ctx, vars)
			return v
		})
		if err != nil {
			return nil
		}
		var data []byte
		if data, err = gojq.Marshal(filled); err == nil && len(data) > maxRequest {
			err = errTooLong
		}
		return data
	}
	if q.params != nil {
		c.Params = tree(q.params)
	}
	if q.body != nil && err == nil {
		c.Body = tree(q.body)
	}
	if q.path != nil && err == nil {
		c.Path, err = q.path.text(ctx, vars, inPath)
		if p := "/" + c.Path + "/"; err == nil && (strings.Contains(p, "/../") || strings.Contains(p, "/./")) {
			err = errors.New("path holds . or .. as a part")
		}
	}
	if len(q.query) > 0 {
		c.Query = maps.Clone(c.Query)
	}
	for _, k := range slices.Sorted(maps.Keys(q.query)) {
		if err != nil {
			break
		}
		var s string
		s, err = q.query[k].text(ctx, vars, func(s string) (string, error) { return s, nil })
		c.Query.Set(k, s)
	}
	return c, err
}

// inPath encodes a result as one part of a path.
func inPath(s string) (string, error) {
	if s == "" {
		return "", errors.New("gives an empty text, which a path cannot hold")
	}
	return url.PathEscape(s), nil
}
