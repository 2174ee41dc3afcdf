package config

import (
	"fmt"
	"log/slog"
	"testing"
	"time"
)

// sampleRoot has the shape of the real configuration, with one field of every
// kind.
type sampleRoot struct {
	NATS    sampleNATS    `yaml:"nats" doc:"Where the stream lives."`
	Poller  samplePoller  `yaml:"poller" doc:"What is asked, and how often."`
	Gateway sampleGateway `yaml:"gateway" doc:"Who listens."`
	Log     sampleLog     `yaml:"log"`
	Hostrpc Other         `yaml:"hostrpc,omitempty"`
}

type sampleNATS struct {
	URL      string `yaml:"url" doc:"Address of the server."`
	Token    Secret `yaml:"token" doc:"Token to connect with."`
	Replicas uint8  `yaml:"replicas" doc:"Copies of the stream, 1 or 3."`
}

type samplePoller struct {
	Sources map[string]sampleSource `yaml:"sources" doc:"The sources, by name."`
}

type sampleSource struct {
	Driver    string                `yaml:"driver" doc:"jsonrpc | http"`
	Upstreams []sampleUpstream      `yaml:"upstreams"`
	Headers   map[string]Secret     `yaml:"headers"`
	Breaker   *sampleBreaker        `yaml:"breaker"`
	Polls     map[string]samplePoll `yaml:"polls"`
}

func (s *sampleSource) SetDefaults() { s.Driver = "jsonrpc" }

func (s sampleSource) Check(report func(path, problem, fix string)) {
	if len(s.Upstreams) == 0 {
		report("upstreams", "is empty", "name at least one upstream")
	}
	for name, poll := range s.Polls {
		if poll.Method == "" && s.Driver == "jsonrpc" {
			report("polls."+name+".method", "is missing", "name the method to call")
		}
	}
}

type sampleUpstream struct {
	URL    string  `yaml:"url"`
	Weight float64 `yaml:"weight"`
}

func (u *sampleUpstream) SetDefaults() { u.Weight = 1 }

func (u *sampleUpstream) Check(report func(path, problem, fix string)) {
	if u.URL == "" {
		report("url", "is missing", "")
	}
}

type sampleBreaker struct {
	Failures int           `yaml:"failures" doc:"Failures in a row that open the circuit."`
	OpenFor  time.Duration `yaml:"openFor"`
}

func (b *sampleBreaker) SetDefaults() { *b = sampleBreaker{5, 5 * time.Minute} }

type samplePoll struct {
	Method   string        `yaml:"method"`
	Params   any           `yaml:"params"`
	Interval time.Duration `yaml:"interval" doc:"Time between two calls."`
	Timeout  time.Duration `yaml:"timeout"`
	Deadband *float64      `yaml:"deadband"`
}

func (p *samplePoll) SetDefaults() { p.Interval, p.Timeout = 10*time.Second, 2*time.Second }

func (p samplePoll) Check(report func(path, problem, fix string)) {
	if p.Timeout > p.Interval {
		report("timeout", fmt.Sprintf("%s is longer than the interval %s", p.Timeout, p.Interval),
			fmt.Sprintf("use at most %s", p.Interval*8/10))
	}
}

type sampleGateway struct {
	Listen     string   `yaml:"listen"`
	Origins    []string `yaml:"origins"`
	MaxClients int32    `yaml:"maxClients"`
	MaxFrame   Size     `yaml:"maxFrame"`
	Compress   bool     `yaml:"compress"`
}

func (g sampleGateway) Check(report func(path, problem, fix string)) {
	if g.Listen == "" {
		report("listen", "is empty", "name an address such as :12080")
	}
}

type sampleLog struct {
	Level slog.Level `yaml:"level"`
}

func defaults() sampleRoot {
	return sampleRoot{
		NATS:    sampleNATS{URL: "nats://127.0.0.1:4222", Replicas: 1},
		Gateway: sampleGateway{Listen: ":12080", MaxClients: 10000, MaxFrame: 64 << 10},
	}
}

// load loads the text over the defaults.
func load(text string, env, sets []string) (sampleRoot, error) {
	cfg := defaults()
	err := Load(&cfg, Source{File: "pollcast.yaml", Data: []byte(text), Env: env, Sets: sets,
		Reserved: []string{"POLLCAST_CONFIG"}})
	return cfg, err
}

func mustLoad(t *testing.T, text string, env, sets []string) sampleRoot {
	t.Helper()
	cfg, err := load(text, env, sets)
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	return cfg
}

// wantError fails unless err's text is want.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil {
		t.Fatalf("have no error, want:\n%s", want)
	}
	if have := err.Error(); have != want {
		t.Errorf("have error:\n%s\nwant:\n%s", have, want)
	}
}
