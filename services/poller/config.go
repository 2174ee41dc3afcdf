package poller

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/pkg/topic"
	"github.com/pollcast/pollcast/services/poller/source"
)

// Defaults and bounds of Config.
const (
	DefaultOperations = "127.0.0.1:12082"
	DefaultDriver     = "jsonrpc"
	DefaultMaxAnswer  = 8 << 20
	DefaultInterval   = 5 * time.Second
	DefaultFailures   = 5
	DefaultOpenFor    = 5 * time.Minute
	// maxDefaultTimeout caps the default timeout, 80 % of the interval.
	maxDefaultTimeout = 10 * time.Second

	MinInterval  = 100 * time.Millisecond
	MaxInterval  = time.Hour
	MinTimeout   = 10 * time.Millisecond
	MaxFailures  = 100
	MaxOpenFor   = 24 * time.Hour
	MinMaxAnswer = 1 << 10
	MaxMaxAnswer = 64 << 20
	// MaxPolls bounds the polls of one source.
	MaxPolls = 1000
	// DefaultMaxKeys and MaxMaxKeys bound the keys of one poll.
	DefaultMaxKeys = 1000
	MaxMaxKeys     = 10_000
	// MaxUpstreams bounds the upstreams of one source.
	MaxUpstreams = 16
)

// ErrConfig marks every error that a changed Config would cure.
var ErrConfig = errors.New("bad poller configuration")

// Config is what an operator decides about a poller. Zero fields mean the
// default.
type Config struct {
	Operations string            `yaml:"operations" doc:"address of /healthz, /readyz, /metrics, /status and profiles"`
	Sources    map[string]Source `yaml:"sources" doc:"what to poll, by name: one token of A-Z a-z 0-9 _ -"`
}

// Source is a group of polls that share upstreams, credentials, a breaker per
// upstream and one lease: at any time one poller polls all of it.
type Source struct {
	Driver    string                   `yaml:"driver" doc:"protocol of the upstreams: jsonrpc"`
	Upstreams []string                 `yaml:"upstreams" doc:"URLs that answer alike; the first whose circuit is closed is asked"`
	Headers   map[string]config.Secret `yaml:"headers" doc:"HTTP headers of every request, such as Authorization; write ${NAME} to take a value from the environment"`
	Timeout   time.Duration            `yaml:"timeout" doc:"how long a call may take, for polls that do not say; default 80 % of the interval, at most 10s"`
	MaxAnswer config.Size              `yaml:"maxAnswer" doc:"longest answer that is read"`
	Breaker   Breaker                  `yaml:"breaker" doc:"when an upstream is left alone"`
	Polls     map[string]Poll          `yaml:"polls" doc:"the calls, by name; <source>.<poll> is the topic"`
}

// Breaker says when a circuit opens and for how long.
type Breaker struct {
	Failures int           `yaml:"failures" doc:"failed calls in a row, of all polls of the source together, that open the circuit, 1 to 100"`
	OpenFor  time.Duration `yaml:"openFor" doc:"how long an open circuit lets no call through before one probe; default 5m, or the shortest interval if that is longer"`
}

// Poll is one call, repeated.
type Poll struct {
	Interval time.Duration `yaml:"interval" doc:"time from one call to the next, 100ms to 1h"`
	Timeout  time.Duration `yaml:"timeout" doc:"how long the call may take, at most 80 % of the interval"`
	Method   string        `yaml:"method" doc:"RPC method"`
	Params   any           `yaml:"params" doc:"parameters: a list or a map"`
	MaxAge   time.Duration `yaml:"maxAge" doc:"a value that was not confirmed for so long is stale, whatever the reason; default 3 intervals"`
	Select   string        `yaml:"select" doc:"jq expression that makes the value out of the answer; it gives exactly one"`
	Each     string        `yaml:"each" doc:"jq expression that splits the value into items, such as .disks[]; each item is a value of its own, on topic <source>.<poll>.<key>"`
	Key      string        `yaml:"key" doc:"jq expression that gives an item's key, text or a number, such as .name"`
	MaxKeys  int           `yaml:"maxKeys" doc:"most items of an answer, 1 to 10000; an answer with more is bad_response"`

	Ignore      []string           `yaml:"ignore" doc:"parts of the value whose change alone is no event: paths of keys and positions joined by dots, * for any"`
	Deadband    map[string]float64 `yaml:"deadband" doc:"by how much a number may differ from the published one without being an event, by path as in ignore, . for the value itself"`
	Emit        string             `yaml:"emit" doc:"changes, or always to make every reading an event"`
	MustAdvance MustAdvance        `yaml:"mustAdvance" doc:"what must advance, or the value is stale (not_advancing) although the upstream answers"`
}

// MustAdvance marks values that are answered but stand still.
type MustAdvance struct {
	Path   string        `yaml:"path" doc:"jq expression over the value, such as .height: a number that must grow, or text that must become another"`
	Within time.Duration `yaml:"within" doc:"how long it may stand still"`
}

// Values of Poll.Emit.
const (
	emitChanges = "changes"
	emitAlways  = "always"
)

// DefaultConfig returns a configuration without sources.
func DefaultConfig() Config { return Config{Operations: DefaultOperations} }

// SetDefaults fills what a source in a file starts from.
func (s *Source) SetDefaults() {
	*s = Source{
		Driver: DefaultDriver, MaxAnswer: DefaultMaxAnswer,
		Breaker: Breaker{Failures: DefaultFailures},
	}
}

// SetDefaults fills what a poll in a file starts from.
func (p *Poll) SetDefaults() {
	*p = Poll{Interval: DefaultInterval, MaxKeys: DefaultMaxKeys, Emit: emitChanges}
}

// withDefaults is the source with its zero fields filled.
func (s Source) withDefaults() Source {
	s.Driver = cmp.Or(s.Driver, DefaultDriver)
	s.MaxAnswer = cmp.Or(s.MaxAnswer, DefaultMaxAnswer)
	s.Breaker.Failures = cmp.Or(s.Breaker.Failures, DefaultFailures)
	if s.Breaker.OpenFor == 0 {
		s.Breaker.OpenFor = max(DefaultOpenFor, s.shortest())
	}
	return s
}

// shortest is the shortest interval of the source's polls.
func (s Source) shortest() time.Duration {
	shortest := time.Duration(0)
	for _, p := range s.Polls {
		if i := cmp.Or(p.Interval, DefaultInterval); shortest == 0 || i < shortest {
			shortest = i
		}
	}
	return shortest
}

// withDefaults is the poll with its zero fields filled, as part of source s.
func (p Poll) withDefaults(s Source) Poll {
	p.Interval = cmp.Or(p.Interval, DefaultInterval)
	p.Timeout = cmp.Or(p.Timeout, s.Timeout, min(longestTimeout(p.Interval), maxDefaultTimeout))
	p.MaxAge = cmp.Or(p.MaxAge, 3*p.Interval)
	p.Emit = cmp.Or(p.Emit, emitChanges)
	p.MaxKeys = cmp.Or(p.MaxKeys, DefaultMaxKeys)
	return p
}

// longestTimeout leaves a fifth of the interval for everything else.
func longestTimeout(interval time.Duration) time.Duration { return interval / 10 * 8 }

// Check reports every mistake.
func (c *Config) Check(report func(path, problem, fix string)) {
	if len(c.Sources) == 0 {
		report("sources", "there is nothing to poll", "add a source with an upstream and a poll")
	}
	for _, name := range sortedKeys(c.Sources) {
		path := "sources." + name
		if err := topic.CheckToken(name); err != nil {
			report(path, err.Error(), "use A-Z a-z 0-9 _ -")
			continue
		}
		s := c.Sources[name].withDefaults()
		s.check(name, func(sub, problem, fix string) { report(join(path, sub), problem, fix) })
	}
}

func (s Source) check(name string, report func(path, problem, fix string)) {
	driver, ok := source.Drivers[s.Driver]
	if !ok {
		report("driver", fmt.Sprintf("there is no driver %q", s.Driver), "use "+source.Names())
	}
	s.checkUpstreams(report)
	for _, name := range sortedKeys(s.Headers) {
		if problem, fix := headerProblem(name, s.Headers[name].Reveal()); problem != "" {
			report("headers."+name, problem, fix)
		}
	}
	if s.MaxAnswer < MinMaxAnswer || s.MaxAnswer > MaxMaxAnswer {
		report("maxAnswer", fmt.Sprintf("%v is out of range", s.MaxAnswer), "use 1KiB to 64MiB")
	}
	if s.Timeout != 0 && s.Timeout < MinTimeout {
		report("timeout", fmt.Sprintf("%v is too short for any call", s.Timeout), fmt.Sprintf("use %v or more", MinTimeout))
	}
	if len(s.Polls) == 0 {
		report("polls", "there is nothing to poll", "add a poll")
	}
	if len(s.Polls) > MaxPolls {
		report("polls", fmt.Sprintf("%d polls are too many for one source", len(s.Polls)),
			fmt.Sprintf("use at most %d; another source may have the same upstreams", MaxPolls))
	}
	names := sortedKeys(s.Polls)
	for i, poll := range names {
		path := "polls." + poll
		if err := topic.Check(name + "." + poll); err != nil {
			report(path, err.Error(), "use tokens of A-Z a-z 0-9 _ - joined by dots")
		}
		for _, other := range names[:i] {
			if strings.HasPrefix(poll, other+".") {
				report(path, fmt.Sprintf("its topic lies under that of poll %q, where the topics of that poll's keys belong", other),
					"rename one of the two")
			}
		}
		p := s.Polls[poll].withDefaults(s)
		p.check(func(sub, problem, fix string) { report(join(path, sub), problem, fix) })
		if ok {
			driver.Check(p.call(), func(key, problem, fix string) { report(join(path, key), problem, fix) })
		}
	}
	s.Breaker.check(s.shortest(), report)
}

func (b Breaker) check(shortest time.Duration, report func(path, problem, fix string)) {
	if b.Failures < 1 || b.Failures > MaxFailures {
		report("breaker.failures", fmt.Sprintf("%d is out of range", b.Failures), fmt.Sprintf("use 1 to %d", MaxFailures))
	}
	switch {
	case b.OpenFor < min(shortest, MaxInterval):
		report("breaker.openFor", fmt.Sprintf("%v is shorter than the source's shortest interval, so that the upstream would be asked more often while it is down", b.OpenFor),
			fmt.Sprintf("use %v or more", min(shortest, MaxInterval)))
	case b.OpenFor > MaxOpenFor:
		report("breaker.openFor", fmt.Sprintf("%v is too long", b.OpenFor), fmt.Sprintf("use %v or less", MaxOpenFor))
	}
}

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
	for i, path := range p.Ignore {
		if _, err := parsePath(path); err != nil {
			report("ignore["+strconv.Itoa(i)+"]", err.Error(), "write keys joined by dots, such as stats.uptime or disks.*.free")
		}
	}
	p.checkShape(report)
}

func (p Poll) checkShape(report func(path, problem, fix string)) {
	_, bad := newShape(p)
	for _, b := range bad {
		report(b.key, "jq: "+b.err.Error(), "correct the expression; jq '…' tries it out on an answer")
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
	for _, path := range sortedKeys(p.Deadband) {
		amount := p.Deadband[path]
		if math.IsNaN(amount) || math.IsInf(amount, 0) || amount < 0 {
			report("deadband", fmt.Sprintf("%q: %v is no amount", path, amount), "use a number from 0")
		} else if _, err := newBand(path, amount); err != nil {
			report("deadband", err.Error(), "write keys joined by dots, such as cpu.load, or . for the value itself")
		}
	}
	if p.Emit != emitChanges && p.Emit != emitAlways {
		report("emit", fmt.Sprintf("%q is unknown", p.Emit), "use changes or always")
	}
	switch m := p.MustAdvance; {
	case m.Path == "" && m.Within != 0:
		report("mustAdvance.path", "it is missing", "write what must advance, such as .height")
	case m.Path != "" && m.Within == 0:
		report("mustAdvance.within", "it is missing", fmt.Sprintf("write how long it may stand still, %v or more", p.Interval))
	case m.Path != "" && m.Within < p.Interval:
		report("mustAdvance.within", fmt.Sprintf("%v is less than the interval %v, so that nothing could advance in time", m.Within, p.Interval),
			fmt.Sprintf("use %v or more", p.Interval))
	}
}

// checkUpstreams never quotes a URL: its path may hold a key.
func (s Source) checkUpstreams(report func(path, problem, fix string)) {
	if len(s.Upstreams) == 0 {
		report("upstreams", "there is none", "write the URL to ask, such as http://127.0.0.1:12090/")
	}
	if len(s.Upstreams) > MaxUpstreams {
		report("upstreams", fmt.Sprintf("%d are too many", len(s.Upstreams)), fmt.Sprintf("use at most %d", MaxUpstreams))
	}
	for i, text := range s.Upstreams {
		path := "upstreams[" + strconv.Itoa(i) + "]"
		u, err := url.Parse(text)
		switch {
		case err != nil:
			report(path, "it is no URL", "write http://host:port/path")
		case u.User != nil:
			report(path, "credentials in a URL end up in logs", `put them into headers, such as Authorization: "Basic ${NAME}"`)
		case u.Scheme != "http" && u.Scheme != "https":
			report(path, fmt.Sprintf("scheme %q is not spoken", u.Scheme), "write http://host:port/path or https://…")
		case u.Hostname() == "":
			report(path, "it has no host", "write http://host:port/path")
		case u.Fragment != "":
			report(path, "a fragment (#…) is never sent", "remove it")
		case slices.Contains(s.Upstreams[:i], text):
			report(path, "it is listed twice", "remove one")
		}
	}
}

// headerProblem says what is wrong with a header, without its value.
func headerProblem(name, value string) (problem, fix string) {
	switch http.CanonicalHeaderKey(name) {
	case "Host", "Content-Length", "Content-Type", "Content-Encoding", "Accept-Encoding", "Connection", "Transfer-Encoding", "Idempotency-Key":
		return "the poller sets it itself", "remove it"
	}
	if name == "" || strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	}) {
		return fmt.Sprintf("%q is no name of a header", name), "use letters, digits and -"
	}
	if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return "its value holds a control character, such as a line break", "remove it; look at the end of the value"
	}
	return "", ""
}

// call is what the driver is asked to do.
func (p Poll) call() source.Call {
	c := source.Call{Method: p.Method}
	if data, err := json.Marshal(p.Params); err == nil && !bytes.Equal(data, []byte("null")) {
		c.Params = data
	}
	return c
}

// err is every mistake in one error that wraps ErrConfig, or nil.
func (c *Config) err() error {
	var all []error
	c.Check(func(path, problem, fix string) {
		all = append(all, fmt.Errorf("%w: %s: %s; %s", ErrConfig, path, problem, fix))
	})
	return errors.Join(all...)
}

func join(path, sub string) string {
	if sub == "" {
		return path
	}
	return path + "." + sub
}

// ceil rounds up to what people write: whole 10 ms.
func ceil(d time.Duration) time.Duration {
	const unit = 10 * time.Millisecond
	return (d + unit - 1) / unit * unit
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
