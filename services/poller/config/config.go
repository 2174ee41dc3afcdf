package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/pkg/topic"
	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/drivers"
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
	Driver            string                   `yaml:"driver" doc:"protocol of the upstreams: jsonrpc, http for any request that is answered with JSON, or grpc for unary calls"`
	Upstreams         []string                 `yaml:"upstreams" doc:"URLs that answer alike; the first whose circuit is closed is asked, and when it fails the next"`
	Headers           map[string]config.Secret `yaml:"headers" doc:"HTTP headers of every request, such as Authorization; write ${NAME} to take a value from the environment"`
	Auth              Auth                     `yaml:"auth" doc:"credentials of every request, instead of a header Authorization"`
	TLS               TLS                      `yaml:"tls" doc:"certificates, for upstreams asked over TLS"`
	Descriptors       string                   `yaml:"descriptors" doc:"driver grpc: file of a descriptor set, for upstreams without server reflection; read at start and at a reload"`
	Timeout           time.Duration            `yaml:"timeout" doc:"how long the calls of a tick may take together, for polls that do not say; default 80 % of the interval, at most 10s"`
	MaxAnswer         config.Size              `yaml:"maxAnswer" doc:"longest answer that is read"`
	Batch             bool                     `yaml:"batch" doc:"driver jsonrpc: polls of the same interval are asked at the same time, in one request; an upstream that takes no batches is asked call by call"`
	AttemptTimeout    time.Duration            `yaml:"attemptTimeout" doc:"how long one call may take, so that another can follow in the same tick; default its share of the poll's timeout"`
	Retries           int                      `yaml:"retries" doc:"calls that a tick may repeat, after a pause, when all upstreams have failed, 0 to 5"`
	Hedge             time.Duration            `yaml:"hedge" doc:"when the first upstream has not answered for so long, the next is asked too, and the first good answer is taken; 0s: never"`
	MaxCallsPerMinute int                      `yaml:"maxCallsPerMinute" doc:"most calls that each upstream gets in a minute; 0: any number"`
	Breaker           Breaker                  `yaml:"breaker" doc:"when an upstream is left alone"`
	Polls             map[string]Poll          `yaml:"polls" doc:"the calls, by name; <source>.<poll> is the topic"`

	// explicit says that SetDefaults filled the source before a file was read: what is
	// zero now stands so in the file, and Check refuses it.
	explicit bool
}

// Breaker says when a circuit opens and for how long.
type Breaker struct {
	Failures int           `yaml:"failures" doc:"failed calls in a row, of all polls of the source together, that open the circuit, 1 to 100"`
	OpenFor  time.Duration `yaml:"openFor" doc:"how long an open circuit lets no call through before one probe; default 5m, or the shortest interval if that is longer"`
}

// DefaultConfig returns a configuration without sources.
func DefaultConfig() Config { return Config{Operations: DefaultOperations} }

// SetDefaults fills what a source in a file starts from.
func (s *Source) SetDefaults() {
	*s = Source{
		explicit: true,
		Driver:   DefaultDriver, MaxAnswer: DefaultMaxAnswer,
		Breaker: Breaker{Failures: DefaultFailures},
	}
}

// WithDefaults returns the source with its zero fields filled.
func (s Source) WithDefaults() Source {
	if !s.explicit {
		s.Driver = cmp.Or(s.Driver, DefaultDriver)
		s.MaxAnswer = cmp.Or(s.MaxAnswer, DefaultMaxAnswer)
		s.Breaker.Failures = cmp.Or(s.Breaker.Failures, DefaultFailures)
	}
	if s.Breaker.OpenFor == 0 {
		s.Breaker.OpenFor = max(DefaultOpenFor, s.shortest())
	}
	return s
}

// shortest returns the shortest interval of the source's polls; 0 without polls.
func (s Source) shortest() time.Duration {
	shortest := time.Duration(0)
	for _, p := range s.Polls {
		if i := cmp.Or(p.Interval, DefaultInterval); shortest == 0 || i < shortest {
			shortest = i
		}
	}
	return shortest
}

// Check reports every mistake: where it is, what is wrong, and what to write instead.
func (c *Config) Check(report func(path, problem, fix string)) {
	if c.Operations != "" { // the process that embeds a poller may have its own
		if err := config.CheckAddress(c.Operations); err != nil {
			report("operations", err.Error(), "write host:port or :port, such as "+DefaultOperations)
		}
	}
	if len(c.Sources) == 0 {
		report("sources", "there is nothing to poll", "add a source with an upstream and a poll")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Sources)) {
		path := "sources." + name
		s := c.Sources[name].WithDefaults()
		if err := topic.CheckToken(name); err != nil {
			report(path, err.Error(), "use A-Z a-z 0-9 _ -")
			name = "source" // its polls must not report the same mistake
		}
		s.check(name, func(sub, problem, fix string) { report(join(path, sub), problem, fix) })
	}
}

func (s Source) check(name string, report func(path, problem, fix string)) {
	driver, ok := drivers.All[s.Driver]
	if !ok {
		report("driver", fmt.Sprintf("there is no driver %q", s.Driver), "use "+drivers.Names())
	}
	if s.Descriptors != "" && ok && !driver.Described {
		report("descriptors", fmt.Sprintf("driver %s needs none", s.Driver), "remove it")
	}
	checkCall := func(source.Call, source.Report) {}
	if ok {
		checkCall = driver.Check(source.Endpoint{Descriptors: s.Descriptors}, report)
	}
	if s.Batch && ok && !driver.Batches {
		report("batch", fmt.Sprintf("driver %s knows no batches", s.Driver), "remove it")
	}
	s.checkUpstreams(driver, report)
	s.checkAttempts(report)
	checkHeaders(s.Headers, report)
	s.Auth.check(s.Headers, report)
	s.TLS.check(slices.ContainsFunc(s.Upstreams, drivers.Encrypted), report)
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
	names := slices.Sorted(maps.Keys(s.Polls))
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
		p := s.Polls[poll].WithDefaults(s)
		p.check(func(sub, problem, fix string) { report(join(path, sub), problem, fix) })
		if ok {
			q, _ := p.Question()
			checkCall(q.Sample(), func(key, problem, fix string) { report(join(path, key), problem, fix) })
			if p.Follow != nil {
				q, _ := p.HeadQuestion()
				checkCall(q.Sample(), func(key, problem, fix string) { report(join(path, "follow.head."+key), problem, fix) })
			}
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

// checkUpstreams checks the URLs. It never quotes one: its path may hold a key.
func (s Source) checkUpstreams(driver source.Driver, report func(path, problem, fix string)) {
	schemes := driver.Schemes
	if len(schemes) == 0 { // no such driver, which is reported already
		driver = drivers.All[DefaultDriver]
		schemes = append(slices.Clone(driver.Schemes), drivers.Schemes()...)
	}
	write := "write " + schemes[0] + "://host:port" + driver.Path
	if len(s.Upstreams) == 0 {
		report("upstreams", "there is none", "write the URL to ask, such as "+schemes[0]+"://127.0.0.1:12090"+driver.Path)
	}
	if len(s.Upstreams) > MaxUpstreams {
		report("upstreams", fmt.Sprintf("%d are too many", len(s.Upstreams)), fmt.Sprintf("use at most %d", MaxUpstreams))
	}
	for i, text := range s.Upstreams {
		path := "upstreams[" + strconv.Itoa(i) + "]"
		u, err := url.Parse(text)
		switch {
		case err != nil:
			report(path, "it is no URL", write)
		case u.User != nil:
			report(path, "credentials in a URL end up in logs", "put them into auth.basic, the password as ${NAME}")
		case !slices.Contains(schemes, u.Scheme):
			report(path, fmt.Sprintf("scheme %q is not spoken", u.Scheme), write+" or "+schemes[len(schemes)-1]+"://…")
		case u.Hostname() == "":
			report(path, "it has no host", write)
		case u.Port() != "" && !config.IsPort(u.Port()):
			report(path, fmt.Sprintf("its port %s is not from 1 to 65535", u.Port()), write)
		case len(driver.Schemes) > 0 && driver.Path == "" && (u.Port() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != ""):
			report(path, "host and port alone are asked", write)
		case u.Fragment != "":
			report(path, "a fragment (#…) is never sent", "remove it")
		case slices.Contains(s.Upstreams[:i], text):
			report(path, "it is listed twice", "remove one")
		}
	}
}

func checkHeaders(headers map[string]config.Secret, report func(path, problem, fix string)) {
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		if problem, fix := headerProblem(name, headers[name].Reveal()); problem != "" {
			report("headers."+name, problem, fix)
		}
	}
}

// headerProblem returns what is wrong with a header, without its value; "" for nothing.
func headerProblem(name, value string) (problem, fix string) {
	switch http.CanonicalHeaderKey(name) {
	case "Host", "Content-Length", "Content-Type", "Content-Encoding", "Accept-Encoding", "Connection", "Transfer-Encoding", "Idempotency-Key", "If-None-Match":
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

// Err returns every mistake in one error that wraps ErrConfig; nil if there is none.
func (c *Config) Err() error {
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

// ceil rounds up to whole 10 ms.
func ceil(d time.Duration) time.Duration {
	const unit = 10 * time.Millisecond
	return (d + unit - 1) / unit * unit
}
