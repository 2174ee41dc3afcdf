package hostrpc

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The types of parameters.
const (
	typeString  = "string"
	typeInteger = "integer"
)

// param describes one parameter. The same description checks the calls and is the
// answer of rpc.methods, so that the two cannot differ.
type param struct {
	Name        string   `json:"name"`
	Type        string   `json:"type"`
	Description string   `json:"description"`
	Required    bool     `json:"required"`
	Default     any      `json:"default,omitempty"`
	Enum        []string `json:"enum,omitempty"`
	Min         *int     `json:"min,omitempty"`
	Max         *int     `json:"max,omitempty"`
}

// method is one method. Params are in positional order.
type method struct {
	Name        string  `json:"name"`
	Description string  `json:"description"`
	Params      []param `json:"params"`
	call        func(ctx context.Context, a args) (any, error)
}

// args are checked parameters: an int or a string by name. A parameter that was
// not sent and has no default is absent.
type args map[string]any

// addMethods fills the table. Faults can affect every method that is added before
// fault.*.
func (s *Server) addMethods() {
	s.methods = make(map[string]*method)
	add := func(name, description string, call func(context.Context, args) (any, error), params ...param) {
		if params == nil {
			params = []param{}
		}
		s.methods[name] = &method{Name: name, Description: description, Params: params, call: call}
		s.names = append(s.names, name)
	}
	add("system.status", "Host name, system, uptime, CPU, memory, swap and load.",
		func(ctx context.Context, _ args) (any, error) { return s.sampler.status(ctx) })
	add("storage.list", "Volumes on physical storage, and /, with their space.",
		func(ctx context.Context, _ args) (any, error) { return s.storage.list(ctx) })
	add("network.list", "Network interfaces with addresses, byte counters and rates.",
		func(ctx context.Context, _ args) (any, error) { return s.sampler.network(ctx) })
	add("process.top", "The processes that use most CPU or memory.",
		func(ctx context.Context, a args) (any, error) {
			return s.sampler.processes.top(ctx, a["limit"].(int), a["by"].(string))
		},
		param{Name: "limit", Type: typeInteger, Description: "How many processes.", Default: 10, Min: new(1),
			Max: new(maxProcesses)},
		param{Name: "by", Type: typeString, Description: "What to sort by, highest first.", Default: byCPU,
			Enum: []string{byCPU, byMemory}})
	add("system.time", "The clock, and the milliseconds since this server started.",
		func(context.Context, args) (any, error) { return s.time(), nil })
	add("rpc.methods", "This list.",
		func(context.Context, args) (any, error) { return s.list(), nil })
	s.faults.methods = slices.Clone(s.names)
	if s.config.AllowFaults {
		s.addFaultMethods(add)
	}
}

func (s *Server) list() []*method {
	all := make([]*method, 0, len(s.names))
	for _, name := range s.names {
		all = append(all, s.methods[name])
	}
	return all
}

type clock struct {
	Now     string `json:"now"`     // RFC 3339, UTC, milliseconds
	Counter int64  `json:"counter"` // milliseconds since this server started; never decreases
}

func (s *Server) time() clock {
	now := time.Now()
	return clock{
		Now:     now.UTC().Format("2006-01-02T15:04:05.000Z07:00"),
		Counter: now.Sub(s.started).Milliseconds(),
	}
}

// invoke runs one valid request. A panic is -32603 for this call only: the other
// calls of the batch get their answers.
func (s *Server) invoke(ctx context.Context, m *method, params json.RawMessage) (result json.RawMessage,
	fail *rpcError) {
	defer func() {
		if cause := recover(); cause != nil {
			s.log.Error("method panicked", "method", m.Name, "cause", fmt.Sprint(cause), "stack", string(debug.Stack()))
			result, fail = nil, failf(codeInternal, "%s panicked; the server's log has the place", m.Name)
		}
	}()
	bound, err := bind(m.Params, params)
	if err != nil {
		return nil, failf(codeInvalidParams, "%s", err)
	}
	value, err := m.call(ctx, bound)
	if err != nil {
		if fail, ok := err.(*rpcError); ok {
			return nil, fail
		}
		return nil, failf(codeInternal, "%s", err)
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return nil, failf(codeInternal, "encode the result of %s: %s", m.Name, err)
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), nil
}

// bind assigns every value to its parameter, by name or by position, and checks
// it. null counts as not sent.
func bind(params []param, raw json.RawMessage) (args, error) {
	sent := make(map[string]json.RawMessage)
	switch {
	case len(raw) == 0:
	case raw[0] == '[':
		var values []json.RawMessage
		if err := json.Unmarshal(raw, &values); err != nil {
			return nil, err
		}
		if len(values) > len(params) {
			return nil, fmt.Errorf("%d values were sent, the method takes %s", len(values), describe(params))
		}
		for i, v := range values {
			sent[params[i].Name] = v
		}
	default:
		if err := json.Unmarshal(raw, &sent); err != nil {
			return nil, err
		}
		for name := range sent {
			if !slices.ContainsFunc(params, func(p param) bool { return p.Name == name }) {
				return nil, fmt.Errorf("%q is no parameter, the method takes %s", clip(name), describe(params))
			}
		}
	}
	bound := make(args, len(params))
	for _, p := range params {
		value, ok := sent[p.Name]
		switch {
		case ok && string(value) != "null":
			v, err := p.parse(value)
			if err != nil {
				return nil, err
			}
			bound[p.Name] = v
		case p.Required:
			return nil, fmt.Errorf("%s is missing", p.Name)
		case p.Default != nil:
			bound[p.Name] = p.Default
		}
	}
	return bound, nil
}

func (p *param) parse(raw json.RawMessage) (any, error) {
	if p.Type == typeString {
		text, ok := jsonString(raw)
		switch {
		case !ok:
			return nil, fmt.Errorf("%s: %s is not a string", p.Name, clip(string(raw)))
		case p.Enum != nil && !slices.Contains(p.Enum, text):
			return nil, fmt.Errorf("%s: %q is not one of %s", p.Name, clip(text), strings.Join(p.Enum, ", "))
		}
		return text, nil
	}
	// JSON has no integers: 10, 10.0 and 1e1 are the same number.
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return nil, fmt.Errorf("%s: %s is not an integer", p.Name, clip(string(raw)))
	}
	n := int(f)
	if (p.Min != nil && n < *p.Min) || (p.Max != nil && n > *p.Max) {
		return nil, fmt.Errorf("%s: %d is outside %d to %d", p.Name, n, *p.Min, *p.Max)
	}
	return n, nil
}

func describe(params []param) string {
	if len(params) == 0 {
		return "none"
	}
	names := make([]string, len(params))
	for i, p := range params {
		names[i] = p.Name
	}
	return strings.Join(names, ", ")
}

// clip bounds a caller's text in error messages and logs.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
