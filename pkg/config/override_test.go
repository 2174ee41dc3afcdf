package config

import (
	"reflect"
	"testing"
	"time"
)

const overridden = `
poller:
  sources:
    host:
      upstreams: [{url: u}]
      headers: {X-Key: a}
      polls:
        system.status: {method: m, interval: 5s}
gateway:
  listen: :1
  maxClients: 1
hostrpc: {listen: ':9'}
`

const statusPrefix = "POLLCAST_POLLER_SOURCES_HOST_POLLS_SYSTEM_STATUS_"

func TestOverrides(t *testing.T) {
	type change func(*sampleRoot)
	poll := func(f func(*samplePoll)) change {
		return func(c *sampleRoot) {
			p := c.Poller.Sources["host"].Polls["system.status"]
			f(&p)
			c.Poller.Sources["host"].Polls["system.status"] = p
		}
	}
	source := func(f func(*sampleSource)) change {
		return func(c *sampleRoot) {
			s := c.Poller.Sources["host"]
			f(&s)
			c.Poller.Sources["host"] = s
		}
	}
	tests := map[string]struct {
		env, sets []string
		want      change
	}{
		"environment over file": {[]string{"POLLCAST_GATEWAY_LISTEN=:2"}, nil,
			func(c *sampleRoot) { c.Gateway.Listen = ":2" }},
		"flag over environment": {[]string{"POLLCAST_GATEWAY_LISTEN=:2"}, []string{"gateway.listen=:3"},
			func(c *sampleRoot) { c.Gateway.Listen = ":3" }},
		"last flag wins": {nil, []string{"gateway.listen=:3", "gateway.listen=:4"},
			func(c *sampleRoot) { c.Gateway.Listen = ":4" }},
		"camel case": {[]string{"POLLCAST_GATEWAY_MAXCLIENTS=7"}, nil,
			func(c *sampleRoot) { c.Gateway.MaxClients = 7 }},
		"over a default": {[]string{"POLLCAST_NATS_REPLICAS=3"}, nil, func(c *sampleRoot) { c.NATS.Replicas = 3 }},
		"text is not YAML": {[]string{"POLLCAST_NATS_TOKEN=[a: $$ ${B}"}, nil,
			func(c *sampleRoot) { c.NATS.Token = NewSecret("[a: $$ ${B}") }},
		"value with =": {nil, []string{"nats.token=a=b"}, func(c *sampleRoot) { c.NATS.Token = NewSecret("a=b") }},
		"empty text":   {nil, []string{"nats.url="}, func(c *sampleRoot) { c.NATS.URL = "" }},
		"list": {[]string{"POLLCAST_GATEWAY_ORIGINS=[a, 'b c']"}, nil,
			func(c *sampleRoot) { c.Gateway.Origins = []string{"a", "b c"} }},
		"list of structs": {nil, []string{"poller.sources.host.upstreams=[{url: v, weight: 2}]"},
			source(func(s *sampleSource) {
				s.Upstreams = []sampleUpstream{{"v", 2}}
			})},
		"any value": {[]string{statusPrefix + "PARAMS=[1, '${A}', '$$']"}, nil,
			poll(func(p *samplePoll) { p.Params = []any{1, "${A}", "$$"} })},
		"struct, key by key, and its part": {
			[]string{"POLLCAST_GATEWAY={maxFrame: 1KiB, maxClients: 2}", "POLLCAST_GATEWAY_MAXCLIENTS=3"}, nil,
			func(c *sampleRoot) { c.Gateway.MaxFrame, c.Gateway.MaxClients = 1024, 3 },
		},
		"behind a nil pointer": {nil, []string{"poller.sources.host.breaker.failures=2"}, source(func(s *sampleSource) {
			s.Breaker = &sampleBreaker{2, 5 * time.Minute}
		})},
		"map key with a dot, environment": {[]string{statusPrefix + "INTERVAL=7s"}, nil,
			poll(func(p *samplePoll) { p.Interval = 7 * time.Second })},
		"map key with a dot, flag": {nil, []string{"poller.sources.host.polls.system.status.interval=7s"},
			poll(func(p *samplePoll) { p.Interval = 7 * time.Second })},
		"map key with a dot, quoted": {nil, []string{`poller.sources.host.polls."system.status".interval=7s`},
			poll(func(p *samplePoll) { p.Interval = 7 * time.Second })},
		"map entry, environment": {[]string{"POLLCAST_POLLER_SOURCES_HOST_HEADERS_X_KEY=b"}, nil,
			source(func(s *sampleSource) { s.Headers["X-Key"] = NewSecret("b") })},
		"new map entries": {nil, []string{
			`poller.sources.host.polls."a.b".method=x`,
			"poller.sources.host.polls.a.b.interval=3s", // the first set has created it
		}, source(func(s *sampleSource) {
			s.Polls["a.b"] = samplePoll{Method: "x", Interval: 3 * time.Second, Timeout: 2 * time.Second}
		})},
		"reserved":          {[]string{"POLLCAST_CONFIG=/etc/pollcast.yaml"}, nil, func(*sampleRoot) {}},
		"another service's": {[]string{"POLLCAST_HOSTRPC_LISTEN=:2", "POLLCAST_HOSTRPC={"}, nil, func(*sampleRoot) {}},
		"somebody else's":   {[]string{"PATH=/bin", "POLLCASTER=1"}, nil, func(*sampleRoot) {}},
		"Kubernetes Services": {[]string{
			"POLLCAST_GATEWAY_SERVICE_HOST=10.0.0.1", "POLLCAST_GATEWAY_SERVICE_PORT=80", "POLLCAST_GATEWAY_SERVICE_PORT_WS=80",
			"POLLCAST_GATEWAY_PORT=tcp://10.0.0.1:80", "POLLCAST_GATEWAY_PORT_80_TCP=tcp://10.0.0.1:80",
			"POLLCAST_GATEWAY_PORT_80_TCP_PROTO=tcp", "POLLCAST_GATEWAY_PORT_80_TCP_ADDR=10.0.0.1",
			"POLLCAST_PORT=tcp://10.0.0.2:80",
		}, nil, func(*sampleRoot) {}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			want := mustLoad(t, overridden, nil, nil)
			test.want(&want)
			if have := mustLoad(t, overridden, test.env, test.sets); !reflect.DeepEqual(have, want) {
				t.Errorf("have\n%+v\nwant\n%+v", have, want)
			}
		})
	}
}

func TestOverrideMistakes(t *testing.T) {
	tests := map[string]struct {
		env, sets []string
		want      string
	}{
		"near name": {[]string{"POLLCAST_GATEWAY_LISTN=:2"}, nil,
			"POLLCAST_GATEWAY_LISTN: no setting has this name; did you mean POLLCAST_GATEWAY_LISTEN?"},
		"far name": {[]string{"POLLCAST_DEBUG_EVERYTHING=1"}, nil,
			"POLLCAST_DEBUG_EVERYTHING: no setting has this name; " +
				"a setting's variable is POLLCAST_ and its path in capitals, such as POLLCAST_GATEWAY_LISTEN"},
		"wrong type": {[]string{"POLLCAST_GATEWAY_MAXCLIENTS=many"}, []string{"gateway.compress=1"}, lines(
			"POLLCAST_GATEWAY_MAXCLIENTS: gateway.maxClients: many is not a whole number; write digits only",
			"-set gateway.compress: gateway.compress: 1 is not true or false; write true or false")},
		"no list": {[]string{"POLLCAST_GATEWAY_ORIGINS=a"}, nil,
			`POLLCAST_GATEWAY_ORIGINS: gateway.origins: a single value where a list is wanted; write [a, b], [] for none`},
		"no mapping": {[]string{"POLLCAST_LOG=debug"}, nil,
			`POLLCAST_LOG: log: a single value where a mapping is wanted; write {key: value}, or name the key as well`},
		"no YAML": {nil, []string{"gateway.origins=[a"},
			"-set gateway.origins: gateway.origins: is not YAML: did not find expected ',' or ']'; " +
				"check the indentation, brackets and quotes up to here"},
		"unknown key in a struct": {[]string{"POLLCAST_LOG={levle: info}"}, nil,
			`POLLCAST_LOG: log: unknown key "levle"; did you mean "level"?`},
		"unknown path": {nil, []string{"gateway.lisen=:1"},
			`-set gateway.lisen: gateway: unknown key "lisen"; did you mean "listen"?`},
		"unknown section": {nil, []string{"redis.url=x"},
			`-set redis.url: unknown key "redis"; known keys are nats, poller, gateway, log, hostrpc`},
		"new dotted key": {nil, []string{"poller.sources.host.polls.net.io.method=x"},
			`-set poller.sources.host.polls.net.io.method: poller.sources.host.polls.net: unknown key "io"; ` +
				`quote a new key that holds dots, as in polls."a.b".interval`},
		"inside a value": {nil, []string{"gateway.listen.port=1"},
			"-set gateway.listen.port: gateway.listen: takes text, so port cannot be set inside it; set it as a whole"},
		"inside a list": {nil, []string{"poller.sources.host.upstreams[0].url=x"},
			"-set poller.sources.host.upstreams[0].url: poller.sources.host.upstreams: takes a list, so [0].url cannot be " +
				"set inside it; set it as a whole"},
		"no =": {nil, []string{"hunter2"},
			"-set: a flag has no =; write -set path=value, such as -set gateway.listen=:8080"},
		"no path": {nil, []string{"=x"},
			`-set : unknown key ""; known keys are nats, poller, gateway, log, hostrpc`},
		"trailing dot": {nil, []string{"gateway.=x"},
			`-set gateway.: gateway: unknown key ""; known keys are listen, origins, maxClients, maxFrame, compress`},
		"another service's": {nil, []string{"hostrpc.listen=:1"},
			"-set hostrpc.listen: hostrpc: belongs to another service; give the flag to that one"},
		"ambiguous": {[]string{"POLLCAST_POLLER_SOURCES_HOST_POLLS_A_B_METHOD=x"}, nil,
			`POLLCAST_POLLER_SOURCES_HOST_POLLS_A_B_METHOD: could mean poller.sources.host.polls.a-b.method or ` +
				`poller.sources.host.polls."a.b".method; use -set, which can tell them apart`},
		"check": {[]string{statusPrefix + "TIMEOUT=9s"}, []string{"gateway.listen="}, lines(
			`POLLCAST_POLLER_SOURCES_HOST_POLLS_SYSTEM_STATUS_TIMEOUT: poller.sources.host.polls."system.status".timeout: `+
				`9s is longer than the interval 5s; use at most 4s`,
			"-set gateway.listen: gateway.listen: is empty; name an address such as :12080")},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			text := overridden
			if name == "ambiguous" {
				text = `poller: {sources: {host: {upstreams: [{url: u}], polls: {a.b: {method: m}, a-b: {method: m}}}}}`
			}
			_, err := load(text, test.env, test.sets)
			wantError(t, err, test.want)
		})
	}
}

// An override below a mistake of the file must not hide the mistake.
func TestOverrideKeepsTheFilesMistake(t *testing.T) {
	_, err := load("gateway: 5\n", []string{"POLLCAST_GATEWAY_LISTEN=:2"}, []string{"gateway.compress=true"})
	wantError(t, err, `pollcast.yaml:1:10: gateway: a single value where a mapping is wanted; `+
		`write "key: value" lines beneath it`)
	_, err = load("[]\n", nil, []string{"gateway.listen=:1"})
	wantError(t, err, `pollcast.yaml:1:1: a list where a mapping is wanted; write "key: value" lines beneath it`)
}
