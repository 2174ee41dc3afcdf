package poller

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	conf "github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/services/poller/config"
)

func TestConfigLoads(t *testing.T) {
	var root struct {
		Poller config.Config `yaml:"poller"`
	}
	root.Poller = config.DefaultConfig()
	err := conf.Load(&root, conf.Source{
		File: "x.yaml", Env: []string{"TOKEN=s3cret"}, Sets: []string{"poller.sources.aria2.polls.stat.interval=2s"},
		Data: []byte(`
poller:
  sources:
    host:
      upstreams: [http://127.0.0.1:12090/]
      polls:
        system.status: {method: system.status}
    aria2:
      upstreams: [http://127.0.0.1:6800/jsonrpc]
      headers: {Authorization: "Bearer ${TOKEN}"}
      maxAnswer: 1MiB
      breaker: {failures: 3}
      polls:
        stat:
          interval: 1s
          method: aria2.getGlobalStat
          params: ["token:${TOKEN}"]
          ignore: [downloadSpeed]
          select: .result
          each: .files[]
          key: .path
          deadband: {progress: 0.5}
          emit: always
          mustAdvance: {path: .total, within: 1m}
`)})
	if err != nil {
		t.Fatal(err)
	}
	a := root.Poller.Sources["aria2"]
	if a.Driver != "jsonrpc" || a.Breaker != (config.Breaker{Failures: 3, OpenFor: 0}) || a.WithDefaults().Breaker.OpenFor != config.DefaultOpenFor || a.MaxAnswer != 1<<20 || a.Headers["Authorization"].Reveal() != "Bearer s3cret" {
		t.Errorf("source %+v", a)
	}
	p := a.Polls["stat"].WithDefaults(a)
	if p.Interval != 2*time.Second || p.Timeout != 1600*time.Millisecond || p.MaxAge != 6*time.Second {
		t.Errorf("poll %+v", p)
	}
	if p.Select != ".result" || p.Each != ".files[]" || p.Key != ".path" || p.MaxKeys != config.DefaultMaxKeys || p.Deadband["progress"] != 0.5 ||
		p.Emit != config.EmitAlways || p.MustAdvance != (config.MustAdvance{Path: ".total", Within: time.Minute}) {
		t.Errorf("shaping %+v", p)
	}
	if q, _ := p.Question(); string(q.Sample().Params) != `["token:s3cret"]` {
		t.Errorf("params %s", q.Sample().Params)
	}
	if p := root.Poller.Sources["host"].Polls["system.status"]; p.Interval != config.DefaultInterval {
		t.Errorf("poll %+v", p)
	}
}

func TestCheckHistory(t *testing.T) {
	c := config.Config{Sources: map[string]config.Source{"s": {Upstreams: []string{"http://u/"}, Polls: map[string]config.Poll{
		"p": {Interval: time.Second, Method: "m", Params: []any{"{{ $position }}"}, Follow: &config.Follow{Head: config.Head{Method: "h"}, MaxPerTick: 100}},
	}}}}
	b := bus.DefaultConfig()
	_, err := New(t.Context(), Options{Config: c, NATS: b})
	if want := "sources.s.polls.p.follow.maxPerTick: 100 positions in a tick are more than the 64 messages that the stream keeps of a topic (nats.history), so that a reader could miss some for good; use 64 or less, or nats.history of 100 or more"; !errors.Is(err, config.ErrConfig) || !strings.Contains(err.Error(), want) {
		t.Errorf("have %v, want %s", err, want)
	}
	b.History = 100
	p, err := New(t.Context(), Options{Config: c, NATS: b})
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	for _, l := range config.Load(c) {
		if l.PerMinute != 60*101 {
			t.Errorf("%v calls a minute, want the head and 100 positions each second", l.PerMinute)
		}
	}
}

func TestConfigMistakes(t *testing.T) {
	good := func() config.Source {
		return config.Source{
			Upstreams: []string{"http://u/"},
			Polls:     map[string]config.Poll{"p": {Interval: 10 * time.Second, Method: "m"}},
		}
	}
	source := func(f func(*config.Source)) config.Config {
		s := good()
		f(&s)
		return config.Config{Sources: map[string]config.Source{"s": s}}
	}
	walk := func(f func(*config.Poll)) config.Config {
		return source(func(s *config.Source) {
			p := config.Poll{Interval: 10 * time.Second, Method: "m", Params: []any{"{{ $position }}"}, Follow: &config.Follow{Head: config.Head{Method: "h"}}}
			f(&p)
			s.Polls["p"] = p
		})
	}
	poll := func(f func(*config.Poll)) config.Config {
		return source(func(s *config.Source) {
			p := s.Polls["p"]
			f(&p)
			s.Polls["p"] = p
		})
	}
	upstream := func(u ...string) config.Config { return source(func(s *config.Source) { s.Upstreams = u }) }
	two := func(f func(*config.Source)) config.Config {
		return source(func(s *config.Source) { s.Upstreams = []string{"http://u/", "http://v/"}; f(s) })
	}
	header := func(k, v string) config.Config {
		return source(func(s *config.Source) { s.Headers = map[string]conf.Secret{k: conf.NewSecret(v)} })
	}
	for _, tt := range []struct {
		c    config.Config
		want string // "" means no mistake
	}{
		{source(func(*config.Source) {}), ""},
		{config.Config{}, "sources: there is nothing to poll"},
		{config.Config{Sources: map[string]config.Source{"a.b": good()}}, "sources.a.b: name \"a.b\": it must be one token"},
		{config.Config{Sources: map[string]config.Source{"_x": good()}}, "is reserved"},
		{source(func(s *config.Source) { s.Driver = "soap" }), `sources.s.driver: there is no driver "soap"; use grpc, http or jsonrpc`},
		{source(func(s *config.Source) { s.Polls = nil }), "sources.s.polls: there is nothing to poll"},
		{source(func(s *config.Source) { s.Polls["p.q"] = s.Polls["p"] }), `sources.s.polls.p.q: its topic lies under that of poll "p"`},
		{source(func(s *config.Source) { s.Polls["pq"] = s.Polls["p"] }), ""},
		{source(func(s *config.Source) { s.Polls["a b"] = s.Polls["p"] }), "holds ' '"},
		{source(func(s *config.Source) { s.MaxAnswer = 1 }), "sources.s.maxAnswer: 1 is out of range"},
		{upstream(), "sources.s.upstreams: there is none"},
		{upstream("http://u", "http://u"), "sources.s.upstreams[1]: it is listed twice"},
		{upstream("u:80"), `scheme "u" is not spoken`},
		{upstream("http://"), "it has no host"},
		{upstream("http://u:65536/hunter22"), "sources.s.upstreams[0]: its port 65536 is not from 1 to 65535; write http://host:port/path"},
		{config.Config{Operations: ":70000", Sources: map[string]config.Source{"s": good()}}, `operations: ":70000" has no port from 0 to 65535`},
		{upstream("grpc://u:1"), `scheme "grpc" is not spoken; write http://host:port/path or https://`},
		{source(func(s *config.Source) {
			s.Driver, s.Upstreams, s.Polls = "grpc", []string{"grpc://u:1", "grpcs://u:1"}, map[string]config.Poll{"p": {Method: "a.B/C", Headers: map[string]conf.Secret{"X": conf.NewSecret("y")}}}
		}), ""},
		{source(func(s *config.Source) { s.Driver, s.Upstreams = "grpc", []string{"http://u:1"} }), `scheme "http" is not spoken; write grpc://host:port or grpcs://`},
		{source(func(s *config.Source) { s.Driver, s.Upstreams = "grpc", []string{"grpc://u"} }), "sources.s.upstreams[0]: host and port alone are asked; write grpc://host:port"},
		{source(func(s *config.Source) { s.Driver, s.Upstreams = "grpc", []string{"grpc://u:1/hunter22"} }), "host and port alone are asked"},
		{source(func(s *config.Source) { s.Driver, s.Upstreams = "grpc", []string{"grpc://u:1"} }), "sources.s.polls.p.method: it is no gRPC method; write package.Service/Method"},
		{source(func(s *config.Source) { s.Descriptors = "x" }), "sources.s.descriptors: driver jsonrpc needs none"},
		{source(func(s *config.Source) {
			s.Driver, s.Upstreams, s.Descriptors = "grpc", []string{"grpc://u:1"}, "/nowhere"
		}), "sources.s.descriptors: /nowhere: there is no such file"},
		{upstream("http://%zz"), "it is no URL"},
		{upstream("http://u/#x"), "never sent"},
		{upstream("http://me:hunter22@u/"), "put them into auth.basic"},
		{header("Authorization", "Bearer x"), ""},
		{header("Content-Type", "x"), "the poller sets it itself"},
		{header("A B", "x"), "is no name of a header"},
		{header("X-Key", "hunter22\n"), "its value holds a control character"},
		{poll(func(p *config.Poll) { p.Interval = 50 * time.Millisecond }), "sources.s.polls.p.interval: 50ms is out of range; use 100ms"},
		{poll(func(p *config.Poll) { p.Interval = 2 * time.Hour }), "use 1h0m0s"},
		{poll(func(p *config.Poll) { p.Timeout = 9 * time.Second }), "9s is more than 80 % of the interval 10s; use 8s or less, or an interval of 11.25s or more"},
		{source(func(s *config.Source) { s.Timeout = 20 * time.Second }), "sources.s.polls.p.timeout: 20s is more than 80 %"},
		{poll(func(p *config.Poll) { p.Timeout = time.Microsecond }), "too short for any call"},
		{poll(func(p *config.Poll) { p.MaxAge = 5 * time.Second }), "sources.s.polls.p.maxAge: 5s is less than interval and timeout together (18s)"},
		{poll(func(p *config.Poll) { p.MaxAge = 18 * time.Second }), ""},
		{poll(func(p *config.Poll) { p.Method = "" }), "sources.s.polls.p.method: it is missing"},
		{poll(func(p *config.Poll) { p.Params = "x" }), "sources.s.polls.p.params: JSON-RPC takes a list or a map"},
		{poll(func(p *config.Poll) { p.Params = func() {} }), "they cannot be written as JSON"},
		{poll(func(p *config.Poll) { p.Params = []any{"{{ $slot | hex }}", map[string]any{"a": "x{{ $prev.n + 1 }}"}} }), ""},
		{poll(func(p *config.Poll) { p.Params = "{{ [1] }}" }), ""},
		{poll(func(p *config.Poll) { p.Params = []any{1, map[string]any{"a": "x{{ $now | }}"}} }), "sources.s.polls.p.params[1].a: in {{ … }}: at character"},
		{poll(func(p *config.Poll) { p.Params = []any{"{{ $position }}"} }), "sources.s.polls.p.params[0]: in {{ … }}: at character 2: variable not defined: $position; correct"},
		{poll(func(p *config.Poll) { p.Params = []any{"{{ env.HOME }}{{ $ENV }"} }), "{{ has no }}"},
		{poll(func(p *config.Poll) { p.Params, p.Each, p.Key = []any{"{{ $prev }}"}, ".[]", ".n" }), "variable not defined: $prev"},
		{source(func(s *config.Source) {
			s.Driver, s.Polls = "http", map[string]config.Poll{"p": {Path: "a/{{ $slot | tostring? // \"..#\" }}"}}
		}), ""},
		{source(func(s *config.Source) {
			s.Driver, s.Polls = "http", map[string]config.Poll{"p": {Path: "a?{{ $slot }}"}}
		}), "path: it holds ? or #"},
		{source(func(s *config.Source) {
			s.Driver, s.Polls = "http", map[string]config.Poll{"p": {Query: map[string]conf.Secret{"k": conf.NewSecret("hunter22{{ nope }}")}}}
		}), "sources.s.polls.p.query.k: in {{ … }}: at character 2: function not defined: nope/0"},
		{poll(func(p *config.Poll) { p.Ignore = []string{"a", "a..b"} }), "sources.s.polls.p.ignore[1]: path \"a..b\" has an empty part"},
		{source(func(s *config.Source) { s.Batch = true }), ""},
		{source(func(s *config.Source) {
			s.Driver, s.Batch, s.Polls = "http", true, map[string]config.Poll{"p": {Path: "a"}}
		}), "sources.s.batch: driver http knows no batches"},
		{poll(func(p *config.Poll) { p.Body = map[string]any{"a": 1} }), "sources.s.polls.p.body: a JSON-RPC call has none of its own"},
		{source(func(s *config.Source) {
			s.Driver, s.Polls = "http", map[string]config.Poll{"p": {Path: "a?k=hunter22"}}
		}), "sources.s.polls.p.path: it holds ? or #; use query"},
		{source(func(s *config.Source) {
			s.Driver, s.Polls = "http", map[string]config.Poll{"p": {Headers: map[string]conf.Secret{"If-None-Match": conf.NewSecret("hunter22")}}}
		}), "sources.s.polls.p.headers.If-None-Match: the poller sets it itself"},
		{source(func(s *config.Source) {
			s.Driver, s.Polls = "http", map[string]config.Poll{"p": {Path: "a", Body: func() {}}}
		}), "body: it cannot be written as JSON"},
		{source(func(s *config.Source) { s.Driver, s.Polls = "http", map[string]config.Poll{"p": {Path: "a"}} }), ""},
		{poll(func(p *config.Poll) { p.Select = ".a | }" }), "sources.s.polls.p.select: jq: at character 6: unexpected token \"}\"; correct"},
		{poll(func(p *config.Poll) { p.Select = ".a | nope" }), "at character 6: function not defined: nope/0"},
		{poll(func(p *config.Poll) { p.Each = ".[]" }), "sources.s.polls.p.key: each makes items"},
		{poll(func(p *config.Poll) { p.Key = ".n" }), "sources.s.polls.p.each: key stands alone"},
		{poll(func(p *config.Poll) { p.Each, p.Key = ".[]", ".n" }), ""},
		{poll(func(p *config.Poll) { p.MaxKeys = 20_000 }), "sources.s.polls.p.maxKeys: 20000 is out of range; use 1 to 10000"},
		{poll(func(p *config.Poll) { p.Deadband = map[string]float64{"a": -1} }), `sources.s.polls.p.deadband: "a": -1 is no amount`},
		{poll(func(p *config.Poll) { p.Deadband = map[string]float64{"a..b": 1} }), "has an empty part"},
		{poll(func(p *config.Poll) { p.Deadband = map[string]float64{".": 1} }), ""},
		{poll(func(p *config.Poll) { p.Emit = "never" }), `sources.s.polls.p.emit: "never" is unknown; use changes or always`},
		{poll(func(p *config.Poll) { p.MustAdvance.Path = ".h" }), "sources.s.polls.p.mustAdvance.within: it is missing; write how long it may stand still, 10s or more"},
		{poll(func(p *config.Poll) { p.MustAdvance.Within = time.Minute }), "sources.s.polls.p.mustAdvance.path: it is missing"},
		{poll(func(p *config.Poll) { p.MustAdvance = config.MustAdvance{Path: ".h", Within: time.Second} }), "1s is less than the interval 10s"},
		{walk(func(*config.Poll) {}), ""},
		{walk(func(p *config.Poll) { p.Emit, p.Select, p.MustAdvance.Within = config.EmitAlways, ".x", time.Minute }), ""},
		{walk(func(p *config.Poll) { p.Follow.Head.Method = "" }), "sources.s.polls.p.follow.head.method: it is missing"},
		{walk(func(p *config.Poll) { p.Follow.Head.Params = []any{"{{ $position }}"} }), "sources.s.polls.p.follow.head.params[0]: in {{ … }}: at character 2: variable not defined: $position"},
		{walk(func(p *config.Poll) { p.Follow.Head.Body = 1 }), "sources.s.polls.p.follow.head.body: a JSON-RPC call has none"},
		{walk(func(p *config.Poll) { p.Follow.Head.Select = "fromhex |" }), "sources.s.polls.p.follow.head.select: jq: "},
		{walk(func(p *config.Poll) { p.Follow.Start = "now" }), `sources.s.polls.p.follow.start: "now" is no position; use latest, or a number from 0`},
		{walk(func(p *config.Poll) { p.Follow.Start = "17" }), ""},
		{walk(func(p *config.Poll) { p.Follow.MaxPerTick = 2000 }), "sources.s.polls.p.follow.maxPerTick: 2000 is out of range; use 1 to 1000"},
		{walk(func(p *config.Poll) { p.Follow.ID = ".hash" }), "sources.s.polls.p.follow.parent: without it"},
		{walk(func(p *config.Poll) { p.Follow.Parent = ".hash" }), "sources.s.polls.p.follow.id: parent stands alone"},
		{walk(func(p *config.Poll) { p.Follow.ID, p.Follow.Parent = ".hash", "}" }), "sources.s.polls.p.follow.parent: jq: at character 1"},
		{walk(func(p *config.Poll) { p.Params = []any{1} }), "sources.s.polls.p.follow: nothing that the poll asks has the position in it"},
		{walk(func(p *config.Poll) { p.Params = []any{"{{ $position + $prev.n }}"} }), "variable not defined: $prev"},
		{walk(func(p *config.Poll) { p.Each, p.Key = ".[]", ".n" }), "sources.s.polls.p.each: with follow each position is one event, which is not split; remove it"},
		{walk(func(p *config.Poll) { p.Ignore = []string{"a"} }), "sources.s.polls.p.ignore: with follow every position is an event"},
		{walk(func(p *config.Poll) { p.Deadband = map[string]float64{"a": 1} }), "sources.s.polls.p.deadband: with follow"},
		{walk(func(p *config.Poll) { p.MustAdvance = config.MustAdvance{Path: ".h", Within: time.Minute} }), "sources.s.polls.p.mustAdvance.path: with follow it is the head that must advance; remove it"},
		{walk(func(p *config.Poll) { p.MustAdvance.Within = time.Second }), "sources.s.polls.p.mustAdvance.within: 1s is less than the interval 10s"},
		{source(func(s *config.Source) { s.Breaker.Failures = 101 }), "sources.s.breaker.failures: 101 is out of range; use 1 to 100"},
		{source(func(s *config.Source) { s.Breaker.Failures = -1 }), "-1 is out of range"},
		{source(func(s *config.Source) { s.Breaker.OpenFor = time.Second }), "1s is shorter than the source's shortest interval"},
		{poll(func(p *config.Poll) { p.Interval = time.Hour }), ""},
		{source(func(s *config.Source) { s.Breaker.OpenFor = 25 * time.Hour }), "use 24h0m0s or less"},

		// The timeout is 8s.
		{source(func(s *config.Source) { s.Retries = 2 }), ""},
		{source(func(s *config.Source) { s.Retries = -1 }), "sources.s.retries: -1 is out of range; use 0 to 5"},
		{source(func(s *config.Source) { s.Retries, s.AttemptTimeout = 5, time.Second }), "sources.s.retries: 6 calls and the pauses between them do not fit into the timeout 8s of poll \"p\"; use 4, or a timeout of 9.1s or more, which takes an interval of 11.38s or more"},
		{source(func(s *config.Source) { s.Retries, s.AttemptTimeout = 4, time.Second }), ""},
		{source(func(s *config.Source) {
			s.Retries, s.Polls["x"] = 4, config.Poll{Method: "m", Interval: 100 * time.Millisecond}
		}), "do not fit into the timeout 80ms of poll \"x\"; use 3, or a timeout of 800ms or more, which takes an interval of 1s or more"},
		{source(func(s *config.Source) { s.AttemptTimeout = time.Millisecond }), "sources.s.attemptTimeout: 1ms is too short for any call"},
		{source(func(s *config.Source) { s.AttemptTimeout = 9 * time.Second }), "sources.s.attemptTimeout: 9s is longer than every poll's timeout; use 8s or less"},
		{source(func(s *config.Source) { s.Hedge = time.Second }), "sources.s.hedge: there is no second upstream to ask"},
		{two(func(s *config.Source) { s.Hedge = time.Second }), ""},
		{two(func(s *config.Source) { s.Hedge = -time.Second }), "sources.s.hedge: -1s is no delay"},
		{two(func(s *config.Source) { s.Hedge = 4 * time.Second }), "sources.s.hedge: 4s is not less than the 4s that the first call has, so that it would never come to it; use less than 4s"},
		{source(func(s *config.Source) { s.MaxCallsPerMinute = -1 }), "sources.s.maxCallsPerMinute: -1 is no number of calls"},
		{source(func(s *config.Source) { s.MaxCallsPerMinute = 6 }), ""},
		{source(func(s *config.Source) { s.MaxCallsPerMinute = 5 }), "sources.s.maxCallsPerMinute: 5 are fewer than the polls may need in a minute, which is 6; use 6 or more, or an interval of 12s or more"},
		{source(func(s *config.Source) { s.MaxCallsPerMinute, s.Retries = 18, 2 }), ""},
		{source(func(s *config.Source) { s.MaxCallsPerMinute, s.Retries = 17, 2 }), "17 are fewer than the polls may need in a minute, which is 18 with 2 retries each; use 18 or more, or retries: 1, or an interval of 12s or more"},
		{source(func(s *config.Source) { s.MaxCallsPerMinute, s.Polls["x"] = 10, config.Poll{Method: "m"} }), "10 are fewer than the polls may need in a minute, which is 18; use 18 or more, or intervals 2.0 times as long"},
		{source(func(s *config.Source) { s.MaxCallsPerMinute, s.Polls["x"] = 1, config.Poll{Method: "m"} }), "use 18 or more; 2 polls cannot do with less than 2, whatever their intervals"},
	} {
		err := tt.c.Err()
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("unexpected: %v", err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !errors.Is(err, config.ErrConfig)):
			t.Errorf("have %v\nwant %s", err, tt.want)
		case err != nil && strings.Contains(err.Error(), "hunter22"):
			t.Errorf("a secret shows: %v", err)
		}
		if p, err2 := New(t.Context(), Options{Config: tt.c}); (err2 == nil) != (tt.want == "") {
			t.Errorf("New says %v, Check says %v", err2, err)
		} else if err2 == nil {
			p.Close()
		}
	}
	// All at once.
	c := source(func(s *config.Source) {
		s.Driver, s.Upstreams, s.Breaker.Failures = "soap", nil, 1000
		s.Polls["x"] = config.Poll{Interval: 1}
	})
	var paths []string
	c.Check(func(path, _, fix string) {
		if fix == "" {
			t.Errorf("%s: no fix", path)
		}
		paths = append(paths, path)
	})
	want := []string{"sources.s.driver", "sources.s.upstreams", "sources.s.polls.x.interval", "sources.s.breaker.failures"}
	if !slices.Equal(paths, want) {
		t.Errorf("mistakes at %q, want %q", paths, want)
	}

	// A bad name hides nothing, and is told once.
	c.Sources["a.b"] = c.Sources["s"]
	delete(c.Sources, "s")
	paths = nil
	c.Check(func(path, _, _ string) { paths = append(paths, path) })
	want = []string{"sources.a.b", "sources.a.b.driver", "sources.a.b.upstreams", "sources.a.b.polls.x.interval", "sources.a.b.breaker.failures"}
	if !slices.Equal(paths, want) {
		t.Errorf("mistakes at %q, want %q", paths, want)
	}
}

// What a file says is zero is not taken for unset.
func TestConfigZeros(t *testing.T) {
	var root struct {
		Poller config.Config `yaml:"poller"`
	}
	err := conf.Load(&root, conf.Source{Data: []byte(`
poller:
  sources:
    s:
      upstreams: ["http://u/"]
      driver: ""
      maxAnswer: 0
      breaker: {failures: 0}
      polls:
        p: {method: m, interval: 0s}
        q: {method: m, maxKeys: 0, emit: ""}
        r: {method: m, timeout: 0s, maxAge: 0s}
`)})
	if err == nil {
		t.Fatal("no mistake is seen")
	}
	for _, want := range []string{
		`driver: there is no driver ""`, "maxAnswer: 0 is out of range", "breaker.failures: 0 is out of range; use 1 to 100",
		"polls.p.interval: 0s is out of range; use 100ms", "polls.q.maxKeys: 0 is out of range", `polls.q.emit: "" is unknown`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("have\n%v\nwant %s", err, want)
		}
	}
	if strings.Contains(err.Error(), "polls.r") || strings.Count(err.Error(), "\n") != 5 {
		t.Errorf("have\n%v\nwant 6 mistakes, none in r", err)
	}
}
