package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/services/poller/jq"
)

// Poll is one call, repeated.
type Poll struct {
	Interval time.Duration `yaml:"interval" doc:"time from one call to the next, 100ms to 1h"`
	Timeout  time.Duration `yaml:"timeout" doc:"how long the calls of a tick may take together, at most 80 % of the interval"`
	Method   string        `yaml:"method" doc:"RPC method, with driver grpc package.Service/Method; with driver http that of HTTP, default GET"`
	Params   any           `yaml:"params" doc:"parameters: a list or a map; texts may hold {{ jq }}, as in path, query and body"`

	Path    string                   `yaml:"path" doc:"driver http: what goes behind the path of the upstream's URL"`
	Query   map[string]config.Secret `yaml:"query" doc:"driver http: parameters in the URL"`
	Headers map[string]config.Secret `yaml:"headers" doc:"driver http: headers of this poll, which replace those of the source"`
	Body    any                      `yaml:"body" doc:"driver http: what is sent, as JSON"`

	MaxAge  time.Duration `yaml:"maxAge" doc:"a value that was not confirmed for so long is stale, whatever the reason; default 3 intervals"`
	Select  string        `yaml:"select" doc:"jq expression that makes the value out of the answer; it gives exactly one"`
	Each    string        `yaml:"each" doc:"jq expression that splits the value into items, such as .disks[]; each item is a value of its own, on topic <source>.<poll>.<key>"`
	Key     string        `yaml:"key" doc:"jq expression that gives an item's key, text or a number, such as .name"`
	MaxKeys int           `yaml:"maxKeys" doc:"most items of an answer, 1 to 10000; an answer with more is bad_response"`

	Ignore      []string           `yaml:"ignore" doc:"parts of the value whose change alone is no event: paths of keys and positions joined by dots, * for any"`
	Deadband    map[string]float64 `yaml:"deadband" doc:"by how much a number may differ from the published one without being an event, by path as in ignore, . for the value itself"`
	Emit        string             `yaml:"emit" doc:"changes, or always to make every reading an event"`
	MustAdvance MustAdvance        `yaml:"mustAdvance" doc:"what must advance, or the value is stale (not_advancing) although the upstream answers"`

	Follow *Follow `yaml:"follow" doc:"makes the poll walk a growing sequence, position by position"`

	explicit bool // see Source.explicit
}

// MustAdvance marks values that are answered but stand still.
type MustAdvance struct {
	Path   string        `yaml:"path" doc:"jq expression over the value, such as .height: a number that must grow, or text that must become another"`
	Within time.Duration `yaml:"within" doc:"how long it may stand still"`
}

// Values of Poll.Emit.
const (
	emitChanges = "changes"
	EmitAlways  = "always"
)

// SetDefaults fills what a poll in a file starts from.
func (p *Poll) SetDefaults() {
	*p = Poll{explicit: true, Interval: DefaultInterval, MaxKeys: DefaultMaxKeys, Emit: emitChanges}
}

// WithDefaults returns the poll with its zero fields filled, as part of source s.
func (p Poll) WithDefaults(s Source) Poll {
	if !p.explicit {
		p.Interval = cmp.Or(p.Interval, DefaultInterval)
		p.Emit = cmp.Or(p.Emit, emitChanges)
		p.MaxKeys = cmp.Or(p.MaxKeys, DefaultMaxKeys)
	}
	p.Timeout = cmp.Or(p.Timeout, s.Timeout, min(longestTimeout(p.Interval), maxDefaultTimeout))
	p.MaxAge = cmp.Or(p.MaxAge, 3*p.Interval)
	if p.Follow != nil && !p.explicit {
		f := p.Follow.WithDefaults()
		p.Follow = &f
	}
	return p
}

// longestTimeout leaves a fifth of the interval for everything else.
func longestTimeout(interval time.Duration) time.Duration { return interval / 10 * 8 }

func (p Poll) check(report func(path, problem, fix string)) {
	if p.Interval < MinInterval || p.Interval > MaxInterval {
		report("interval", fmt.Sprintf("%v is out of range", p.Interval),
			fmt.Sprintf("use %v, the nearest that works", min(max(p.Interval, MinInterval), MaxInterval)))
		return
	}
	if longest := longestTimeout(p.Interval); p.Timeout > longest {
		report("timeout", fmt.Sprintf("%v is more than 80 %% of the interval %v", p.Timeout, p.Interval),
			fmt.Sprintf("use %v or less, or an interval of %v or more", longest, ceil(p.Timeout/8*10)))
	}
	if p.Timeout < MinTimeout {
		report("timeout", fmt.Sprintf("%v is too short for any call", p.Timeout), fmt.Sprintf("use %v or more", MinTimeout))
	}
	if need := p.Interval + p.Timeout; p.MaxAge < need {
		report("maxAge", fmt.Sprintf("%v is less than interval and timeout together (%v): a slow answer that comes in time would show as silence", p.MaxAge, need),
			fmt.Sprintf("use %v or more", need))
	}
	if _, err := json.Marshal(p.Params); err != nil {
		report("params", "they cannot be written as JSON", "use text, numbers, true, false, null, lists and maps")
	}
	if _, err := json.Marshal(p.Body); err != nil {
		report("body", "it cannot be written as JSON", "use text, numbers, true, false, null, lists and maps")
	}
	checkHeaders(p.Headers, report)
	for i, path := range p.Ignore {
		if _, err := jq.ParsePath(path); err != nil {
			report("ignore["+strconv.Itoa(i)+"]", err.Error(), "write keys joined by dots, such as stats.uptime or disks.*.free")
		}
	}
	p.checkShape(report)
	_, bad := p.Question()
	reportTemplates(bad, report)
	if p.Follow != nil {
		p.checkFollow(report)
	}
}

func reportTemplates(bad []jq.KeyError, report func(path, problem, fix string)) {
	for _, b := range bad {
		report(b.Key, b.Err.Error(), "correct the expression; jq -n '…' tries it out")
	}
}

func (p Poll) checkShape(report func(path, problem, fix string)) {
	_, bad := p.Shape()
	for _, b := range bad {
		report(b.Key, "jq: "+b.Err.Error(), "correct the expression; jq '…' tries it out on an answer")
	}
	switch {
	case p.Each != "" && p.Key == "":
		report("key", "each makes items and nothing gives their keys", "write what is an item's own, such as .name")
	case p.Key != "" && p.Each == "":
		report("each", "key stands alone", "write what makes the items, such as .[]")
	}
	if p.MaxKeys < 1 || p.MaxKeys > MaxMaxKeys {
		report("maxKeys", fmt.Sprintf("%d is out of range", p.MaxKeys), fmt.Sprintf("use 1 to %d", MaxMaxKeys))
	}
	for _, path := range slices.Sorted(maps.Keys(p.Deadband)) {
		amount := p.Deadband[path]
		if math.IsNaN(amount) || math.IsInf(amount, 0) || amount < 0 {
			report("deadband", fmt.Sprintf("%q: %v is no amount", path, amount), "use a number from 0")
		} else if _, err := jq.NewBand(path, amount); err != nil {
			report("deadband", err.Error(), "write keys joined by dots, such as cpu.load, or . for the value itself")
		}
	}
	if p.Emit != emitChanges && p.Emit != EmitAlways {
		report("emit", fmt.Sprintf("%q is unknown", p.Emit), "use changes or always")
	}
	switch m := p.MustAdvance; {
	case m.Path == "" && m.Within != 0 && p.Follow == nil:
		report("mustAdvance.path", "it is missing", "write what must advance, such as .height")
	case m.Path != "" && m.Within == 0:
		report("mustAdvance.within", "it is missing", fmt.Sprintf("write how long it may stand still, %v or more", p.Interval))
	case m.Within != 0 && m.Within < p.Interval:
		report("mustAdvance.within", fmt.Sprintf("%v is less than the interval %v, so that nothing could advance in time", m.Within, p.Interval),
			fmt.Sprintf("use %v or more", p.Interval))
	}
}

// Question compiles what the poll asks. It returns an error for each bad template.
func (p Poll) Question() (*jq.Question, []jq.KeyError) {
	variables := jq.PollVariables
	switch {
	case p.Follow != nil:
		variables = positionVariables
	case p.Each != "":
		variables = jq.KeyedVariables
	}
	return jq.NewQuestion(p.request(), variables, p.JqLimit())
}

// request returns what the poll asks.
func (p Poll) request() jq.Request {
	return jq.Request{Method: p.Method, Params: p.Params, Body: p.Body, Path: p.Path, Query: p.Query, Headers: p.Headers}
}

// Shape compiles the poll's expressions over an answer. It returns an error for each bad
// one.
func (p Poll) Shape() (*jq.Shape, []jq.KeyError) {
	return jq.NewShape(jq.ShapeSpec{
		Select: p.Select, Advance: p.MustAdvance.Path, Each: p.Each, Key: p.Key, MaxKeys: p.MaxKeys, Limit: p.JqLimit(),
	})
}

// JqLimit returns how long the expressions of one step may take together: a fifth of the
// interval, 100ms to 1s.
func (p Poll) JqLimit() time.Duration {
	return min(max(p.Interval/5, 100*time.Millisecond), time.Second)
}
