package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/services/poller/jq"
)

// Follow makes a poll walk a growing sequence: blocks, offsets, job ids. Each
// tick asks for the head and then, position by position, for what came since.
type Follow struct {
	Head       Head   `yaml:"head" doc:"the call that says how far the sequence is"`
	Start      string `yaml:"start" doc:"where to begin while the stream holds no position: latest, or a number"`
	MaxPerTick int    `yaml:"maxPerTick" doc:"most positions that are asked for in one tick, 1 to 1000, and at most nats.history"`
	ID         string `yaml:"id" doc:"jq expression over a position's value that names its content, such as .hash"`
	Parent     string `yaml:"parent" doc:"jq expression over a position's value that gives the id of the position before, such as .parentHash"`
}

// Head is the call that says how far a sequence is.
type Head struct {
	Method string                   `yaml:"method" doc:"as that of the poll"`
	Params any                      `yaml:"params" doc:"as those of the poll"`
	Path   string                   `yaml:"path" doc:"as that of the poll"`
	Query  map[string]config.Secret `yaml:"query" doc:"as that of the poll"`
	Body   any                      `yaml:"body" doc:"as that of the poll"`
	Select string                   `yaml:"select" doc:"jq expression that makes a whole number of the answer, such as fromhex"`
}

// Defaults and bounds of Follow.
const (
	DefaultMaxPerTick = 10
	MaxMaxPerTick     = 1000
	startLatest       = "latest"
	// MaxPosition is the highest number that every JSON reader takes in whole.
	MaxPosition = 1<<53 - 1
)

// SetDefaults fills what follow in a file starts from.
func (f *Follow) SetDefaults() { *f = Follow{Start: startLatest, MaxPerTick: DefaultMaxPerTick} }

// WithDefaults returns the settings with their zero fields filled.
func (f Follow) WithDefaults() Follow {
	f.Start = cmp.Or(f.Start, startLatest)
	f.MaxPerTick = cmp.Or(f.MaxPerTick, DefaultMaxPerTick)
	return f
}

// Variables of templates in a poll that follows.
var (
	headVariables     = []string{"$now", "$slot"}
	positionVariables = []string{"$now", "$slot", "$position"}
)

// HeadQuestion compiles the call that asks for the head. It returns an error for each bad
// template.
func (p Poll) HeadQuestion() (*jq.Question, []jq.KeyError) {
	return jq.NewQuestion(p.headRequest(), headVariables, p.JqLimit())
}

// headRequest returns the call that asks for the head.
func (p Poll) headRequest() jq.Request {
	h := p.Follow.Head
	return jq.Request{Method: h.Method, Params: h.Params, Body: h.Body, Path: h.Path, Query: h.Query, Headers: p.Headers}
}

// callsPerTick returns how many calls a tick makes at most, beside what fail-over
// and retries add.
func (p Poll) callsPerTick() int {
	if p.Follow == nil {
		return 1
	}
	return 1 + max(1, p.Follow.WithDefaults().MaxPerTick)
}

// First returns the position to begin with; -1 means the head.
func (f Follow) First() (int64, error) {
	if f.Start == startLatest {
		return -1, nil
	}
	n, err := strconv.ParseUint(f.Start, 10, 64)
	if err != nil || n > MaxPosition {
		return 0, fmt.Errorf("%q is no position", f.Start)
	}
	return int64(n), nil
}

// checkFollow reports settings that do not go with follow, and what follow lacks.
func (p Poll) checkFollow(report func(path, problem, fix string)) {
	f := *p.Follow
	if !p.explicit { // in a file a zero is a zero
		f = f.WithDefaults()
	}
	for _, k := range []struct {
		key string
		set bool
		why string
	}{
		{"each", p.Each != "", "with follow each position is one event, which is not split"},
		{"key", p.Key != "", "with follow each position is one event, which is not split"},
		{"ignore", len(p.Ignore) > 0, "with follow every position is an event, whatever it holds"},
		{"deadband", len(p.Deadband) > 0, "with follow every position is an event, whatever it holds"},
		{"mustAdvance.path", p.MustAdvance.Path != "", "with follow it is the head that must advance"},
	} {
		if k.set {
			report(k.key, k.why, "remove it")
		}
	}
	if _, err := f.First(); err != nil {
		report("follow.start", err.Error(), "use latest, or a number from 0")
	}
	if f.MaxPerTick < 1 || f.MaxPerTick > MaxMaxPerTick {
		report("follow.maxPerTick", fmt.Sprintf("%d is out of range", f.MaxPerTick), fmt.Sprintf("use 1 to %d", MaxMaxPerTick))
	}
	for _, e := range []struct{ key, text string }{{"head.select", f.Head.Select}, {"id", f.ID}, {"parent", f.Parent}} {
		if e.text == "" {
			continue
		}
		if _, err := jq.Compile(e.key, e.text); err != nil {
			report("follow."+e.key, "jq: "+err.Error(), "correct the expression; jq '…' tries it out on an answer")
		}
	}
	switch {
	case f.ID != "" && f.Parent == "":
		report("follow.parent", "without it a position is never compared with the one before", "write what names the position before, such as .parentHash, or remove id")
	case f.Parent != "" && f.ID == "":
		report("follow.id", "parent stands alone", "write what parent is compared with, such as .hash")
	}
	_, bad := p.HeadQuestion()
	reportTemplates(bad, func(path, problem, fix string) { report("follow.head."+path, problem, fix) })
	if !p.mentions("$position") {
		report("follow", "nothing that the poll asks has the position in it, so that every call would be the same",
			"write {{ $position }} into params, path, query or body")
	}
}

// mentions reports whether what the poll asks holds a text.
func (p Poll) mentions(text string) bool {
	tree, _ := json.Marshal([]any{p.Params, p.Body, p.Path}) // reported elsewhere
	if strings.Contains(string(tree), text) {
		return true
	}
	for _, v := range p.Query {
		if strings.Contains(v.Reveal(), text) {
			return true
		}
	}
	return false
}

// CheckHistory reports polls that would publish more positions in a tick than
// the stream keeps messages per subject: a reader that is away for a tick could not
// read them back.
func (c *Config) CheckHistory(history int, report func(path, problem, fix string)) {
	for _, name := range slices.Sorted(maps.Keys(c.Sources)) {
		polls := c.Sources[name].Polls
		for _, poll := range slices.Sorted(maps.Keys(polls)) {
			f := polls[poll].Follow
			if f == nil || f.WithDefaults().MaxPerTick <= history {
				continue
			}
			report("sources."+name+".polls."+poll+".follow.maxPerTick",
				fmt.Sprintf("%d positions in a tick are more than the %d messages that the stream keeps of a topic (nats.history), so that a reader could miss some for good", f.WithDefaults().MaxPerTick, history),
				fmt.Sprintf("use %d or less, or nats.history of %d or more", history, f.WithDefaults().MaxPerTick))
		}
	}
}
