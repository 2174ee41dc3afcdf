package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var goodEnv = []string{"NATS_TOKEN=s3cret: {not: yaml}", "API_KEY=k", "MAX_CLIENTS=500"}

func readGood(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("testdata/good.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestLoadGood(t *testing.T) {
	have := mustLoad(t, readGood(t), goodEnv, nil)
	deadband := 0.01
	upstreams := []sampleUpstream{{"http://127.0.0.1:12082/rpc", 0.5}, {"http://127.0.0.2:12082/rpc", 1}}
	want := sampleRoot{
		NATS: sampleNATS{URL: "nats://nats:4222", Token: NewSecret("s3cret: {not: yaml}"), Replicas: 3},
		Poller: samplePoller{Sources: map[string]sampleSource{
			"host": {
				Driver:    "jsonrpc",
				Upstreams: upstreams,
				Headers:   map[string]Secret{"Authorization": NewSecret("Bearer k")},
				Breaker:   &sampleBreaker{3, 5 * time.Minute},
				Polls: map[string]samplePoll{
					"system.status": {
						Method:   "system.status",
						Params:   []any{1, 2.5, true, nil, "0x1b4", "2026-01-02", map[string]any{"deep": []any{"a"}}},
						Interval: 5 * time.Second, Timeout: 2 * time.Second,
					},
					"load": {
						Method: "system.load", Params: "costs $5, $x stays",
						Interval: 10 * time.Second, Timeout: 1500 * time.Millisecond, Deadband: &deadband,
					},
				},
			},
			"spare": {Driver: "http", Upstreams: upstreams},
		}},
		Gateway: sampleGateway{
			Listen: "127.0.0.1:0", Origins: []string{"https://example.com", "http://localhost:*"},
			MaxClients: 500, MaxFrame: 1 << 20, Compress: true,
		},
		Log: sampleLog{slog.LevelDebug},
	}
	if !reflect.DeepEqual(have, want) {
		t.Errorf("have\n%+v\nwant\n%+v", have, want)
	}
	if have, want := have.NATS.Token.Reveal(), "s3cret: {not: yaml}"; have != want {
		t.Errorf("have token %q, want %q", have, want)
	}
}

func TestLoadWithoutFile(t *testing.T) {
	have := defaults()
	if err := Load(&have, Source{Env: []string{"POLLCAST_GATEWAY_LISTEN=:1"}}); err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.Gateway.Listen = ":1"
	if !reflect.DeepEqual(have, want) {
		t.Errorf("have %+v, want %+v", have, want)
	}
	wantError(t, Load(&sampleRoot{}, Source{}), "gateway.listen: is empty; name an address such as :12080")
}

func TestLoadReadsFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	cfg := defaults()
	if err := Load(&cfg, Source{File: write("good.yaml", "gateway: {listen: ':7'}\n")}); err != nil ||
		cfg.Gateway.Listen != ":7" {
		t.Errorf("have listen %q and error %v, want :7 and none", cfg.Gateway.Listen, err)
	}
	if err := Load(&cfg, Source{File: filepath.Join(dir, "none.yaml")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("have %v, want %v", err, fs.ErrNotExist)
	}
	if err := Load(&cfg, Source{File: write("large.yaml", strings.Repeat("#", maxFile+1))}); !errors.Is(err,
		errTooLarge) {
		t.Errorf("have %v, want %v", err, errTooLarge)
	}
	wantError(t, Load(&cfg, Source{File: "x", Data: make([]byte, maxFile+1)}), "x: is larger than 1 MiB")
	empty := write("empty.yaml", "")
	wantError(t, Load(&cfg, Source{File: empty}), empty+": is empty; write at least one section, or {} for all defaults")
}

func TestPrefilledValuesMerge(t *testing.T) {
	shared := map[string]sampleSource{"host": {Driver: "http", Upstreams: []sampleUpstream{{"u", 1}},
		Breaker: &sampleBreaker{7, time.Hour}}}
	cfg := defaults()
	cfg.Poller.Sources = shared
	cfg.Gateway.Origins = []string{"old"}
	err := Load(&cfg, Source{File: "f", Data: []byte(`
poller:
  sources:
    host: {breaker: {openFor: 1m}}
    other: {upstreams: [{url: v}], breaker: {openFor: 1s}}
gateway: {origins: [new]}
`)})
	if err != nil {
		t.Fatal(err)
	}
	host, other := cfg.Poller.Sources["host"], cfg.Poller.Sources["other"]
	if have, want := *host.Breaker, (sampleBreaker{7, time.Minute}); have != want || host.Driver != "http" {
		t.Errorf("have driver %s and breaker %+v, want http and %+v", host.Driver, have, want)
	}
	if have, want := *other.Breaker, (sampleBreaker{5, time.Second}); have != want || other.Driver != "jsonrpc" {
		t.Errorf("have driver %s and breaker %+v, want jsonrpc and %+v", other.Driver, have, want)
	}
	if have, want := cfg.Gateway.Origins, []string{"new"}; !reflect.DeepEqual(have, want) {
		t.Errorf("have origins %q, want %q", have, want)
	}
	if len(shared) != 1 || shared["host"].Breaker.OpenFor != time.Hour {
		t.Errorf("the caller's map changed: %+v", shared)
	}
}

func TestNull(t *testing.T) {
	five := 5.0
	cfg := struct {
		Section sampleBreaker  `yaml:"section"`
		Map     map[string]int `yaml:"map"`
		Pointer *float64       `yaml:"pointer"`
		Any     any            `yaml:"any"`
		Keep    *float64       `yaml:"keep"`
	}{sampleBreaker{1, 1}, map[string]int{"a": 1}, &five, "x", &five}
	if err := Load(&cfg, Source{File: "f", Data: []byte("section:\nmap:\npointer:\nany: ~\n")}); err != nil {
		t.Fatal(err)
	}
	if cfg.Section.Failures != 1 || cfg.Map["a"] != 1 || cfg.Pointer != nil || cfg.Any != nil || *cfg.Keep != 5 {
		t.Errorf("have %+v, want the section and the map as they were, the pointer and the value gone", cfg)
	}
}

func TestAliasBombIsBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("poller:\n  sources:\n    x:\n      upstreams: [{url: u}]\n      polls:\n        p:\n          " +
		"method: m\n          params:\n            - &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := range 30 {
		fmt.Fprintf(&b, "            - &a%d [%s]\n", i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 10),
			", "))
	}
	_, err := load(b.String(), nil, nil)
	wantError(t, err, "pollcast.yaml: holds more than 200000 values once its aliases are followed; use fewer aliases "+
		"of aliases")
}

func TestDepthIsBounded(t *testing.T) {
	deep := func(n int) string {
		return "poller: {sources: {x: {upstreams: [{url: u}], polls: {p: {method: m, params: " + strings.Repeat("[",
			n) + strings.Repeat("]", n) + "}}}}}"
	}
	mustLoad(t, deep(50), nil, nil)
	_, err := load(deep(5000), nil, nil)
	if err == nil || !strings.Contains(err.Error(), "is nested deeper than 64 levels") {
		t.Errorf("have %.200v, want a word about the depth", err)
	}
}

func TestErrorIsSortedAndCapped(t *testing.T) {
	var b strings.Builder
	b.WriteString("gateway: {listen: ''}\nlog:\n")
	for i := range 60 {
		fmt.Fprintf(&b, "  nonsense%02d: 1\n", i)
	}
	_, err := load(b.String(), []string{"POLLCAST_NATS_REPLICAS=x"}, nil)
	bad, ok := errors.AsType[*Error](err)
	if !ok || len(bad.Problems) != 62 {
		t.Fatalf("have %T with %v, want *Error with 62 problems", err, err)
	}
	have := strings.Split(err.Error(), "\n")
	if len(have) != 51 || have[50] != "… and 12 more" {
		t.Errorf("have %d lines, the last %q, want 50 and a count of 12", len(have), have[len(have)-1])
	}
	if want := "pollcast.yaml:1:19: gateway.listen: is empty; name an address such as :12080"; have[0] != want {
		t.Errorf("have first %q, want %q", have[0], want)
	}
	if have, want := bad.Problems[61].Place, "POLLCAST_NATS_REPLICAS"; have != want {
		t.Errorf("have last place %q, want %q", have, want)
	}
}

func TestStructsOutsideTheRulesPanic(t *testing.T) {
	for name, into := range map[string]any{
		"no pointer": sampleLog{},
		"nil":        (*sampleLog)(nil),
		"no struct":  new(int),
		"no tag":     &struct{ Listen string }{},
		"a channel": &struct {
			C chan int `yaml:"c"`
		}{},
		"integer keys": &struct {
			M map[int]string `yaml:"m"`
		}{},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("have no panic, want one")
				}
			}()
			_ = Load(into, Source{File: "f", Data: []byte("c: 1\nm: {1: a}\nlisten: x\n")})
		})
	}
}

func TestAliasesAsKeysAndValues(t *testing.T) {
	cfg := mustLoad(t, "gateway: {listen: &l ':1', origins: [*l, *l]}\nnats: {url: *l}\nlog: {? &k level : info}\n", nil,
		nil)
	if cfg.NATS.URL != ":1" || !reflect.DeepEqual(cfg.Gateway.Origins, []string{":1", ":1"}) {
		t.Errorf("have %+v, want :1 at every alias", cfg)
	}
	cfg = mustLoad(t, "nats: {url: &u listen}\ngateway: {*u : ':2'}\n", nil, nil)
	if cfg.Gateway.Listen != ":2" {
		t.Errorf("have listen %q, want :2", cfg.Gateway.Listen)
	}
}

func TestLongValuesAreClipped(t *testing.T) {
	_, err := load("gateway: {maxClients: "+strings.Repeat("x", 100)+"}", nil, nil)
	wantError(t, err, "pollcast.yaml:1:23: gateway.maxClients: "+strings.Repeat("x",
		60)+"… is not a whole number; write digits only")
}
