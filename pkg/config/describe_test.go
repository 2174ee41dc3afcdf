package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, file, have string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(have), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if have != string(want) {
		t.Errorf("%s differs (go test -update writes it):\n%s", file, have)
	}
}

func TestReference(t *testing.T) {
	cfg := defaults()
	golden(t, "testdata/reference.md", Reference(&cfg))
}

func TestJSONSchema(t *testing.T) {
	cfg := defaults()
	golden(t, "testdata/schema.json", string(JSONSchema(&cfg)))
}

func TestDescribe(t *testing.T) {
	cfg := defaults()
	cfg.NATS.Token = NewSecret("hunter2")
	have := map[string]Field{}
	for _, f := range Describe(&cfg) {
		have[f.Path] = f
	}
	for _, want := range []Field{
		{"nats", "section", "", "Where the stream lives.", "POLLCAST_NATS"},
		{"nats.token", "secret", "", "Token to connect with.", "POLLCAST_NATS_TOKEN"},
		{"gateway.maxFrame", "size", "64KiB", "", "POLLCAST_GATEWAY_MAXFRAME"},
		{"poller.sources", "map of section", "", "The sources, by name.", "POLLCAST_POLLER_SOURCES"},
		{"poller.sources.<name>.upstreams", "list of section", "", "", "POLLCAST_POLLER_SOURCES_<NAME>_UPSTREAMS"},
		{"poller.sources.<name>.upstreams[].weight", "number", "1", "", ""},
		{"poller.sources.<name>.breaker.openFor", "duration", "5m", "", "POLLCAST_POLLER_SOURCES_<NAME>_BREAKER_OPENFOR"},
		{"poller.sources.<name>.headers", "map of secret", "", "", "POLLCAST_POLLER_SOURCES_<NAME>_HEADERS"},
		{"poller.sources.<name>.polls.<name>.params", "any", "", "", "POLLCAST_POLLER_SOURCES_<NAME>_POLLS_<NAME>_PARAMS"},
		{"log.level", "string", "INFO", "", "POLLCAST_LOG_LEVEL"},
	} {
		if have[want.Path] != want {
			t.Errorf("have %+v, want %+v", have[want.Path], want)
		}
	}
	if _, ok := have["hostrpc"]; ok {
		t.Error("another service's section is described")
	}
}

// Load reads the output of Print back to the same configuration, but for secrets.
func TestPrintIsLoadable(t *testing.T) {
	cfg := mustLoad(t, readGood(t), goodEnv, []string{"gateway.listen=${A} $$"})
	out, err := Print(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), "s3cret") || !strings.Contains(string(out), "token: '[redacted]'") {
		t.Errorf("have\n%s\nwant the token redacted", out)
	}
	_, err = load(string(out), nil, nil)
	if err == nil || strings.Count(err.Error(), "\n") != 1 ||
		!strings.Contains(err.Error(), "nats.token: \"[redacted]\" stands for a secret") {
		t.Errorf("have %v, want a complaint about each of the two secrets", err)
	}
	again := mustLoad(t, strings.ReplaceAll(string(out), "'[redacted]'", "s"), nil, nil)
	cfg.NATS.Token = NewSecret("s")
	cfg.Poller.Sources["host"].Headers["Authorization"] = NewSecret("s")
	if !reflect.DeepEqual(again, cfg) {
		t.Errorf("have\n%+v\nwant\n%+v\nfrom\n%s", again, cfg, out)
	}
}

// Parameters of a call may hold a secret and have no type that shows it: text
// from the environment is sent and never printed.
func TestPrintHidesVariables(t *testing.T) {
	cfg := mustLoad(t, `poller: {sources: {host: {upstreams: [{url: u}], polls: {p: {method: m, params: `+
		`["token:${TOKEN}", {a: "${TOKEN}"}, "$$5", "${NONE:-}", x]}}}}}`,
		[]string{"TOKEN=hunter2"}, nil)
	params := cfg.Poller.Sources["host"].Polls["p"].Params
	sent, err := json.Marshal(params)
	if have, want := string(sent), `["token:hunter2",{"a":"hunter2"},"$5","","x"]`; err != nil || have != want {
		t.Errorf("sent is %s (%v), want %s", have, err, want)
	}
	out, err := Print(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "params", params)
	for _, text := range []string{string(out), fmt.Sprint(params), fmt.Sprintf("%#v", params), log.String()} {
		if strings.Contains(text, "hunter2") || strings.Count(text, redacted) != 2 || !strings.Contains(text, "$5") {
			t.Errorf("have\n%s\nwant two parts redacted, and no other", text)
		}
	}
	if _, err := load(string(out), nil, nil); err == nil || strings.Count(err.Error(), "stands for a secret") != 2 {
		t.Errorf("loading what was printed: have %v, want two complaints", err)
	}
}

// A secret in the middle of plain text has no type that shows it either.
func TestPrintShowsReferences(t *testing.T) {
	file := `
nats: {url: "nats://user:${PW}@h:4222"}
gateway: {listen: "${ADDRESS:-:80}", maxClients: "${MANY}"}
poller: {sources: {host: {upstreams: [{url: plain}, {url: "https://h/${KEY}/$$"}]}}}
`
	env := []string{"PW=hunter2", "KEY=hunter2", "MANY=7", "POLLCAST_GATEWAY_LISTEN=:81"}
	src := Source{File: "f.yaml", Data: []byte(file), Env: env}
	cfg := defaults()
	if err := Load(&cfg, src); err != nil {
		t.Fatal(err)
	}
	out, err := Print(&cfg, src)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"nats://user:${PW}@h:4222", "https://h/${KEY}/$$", "url: plain", "listen: :81",
		"maxClients: 7"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("have\n%s\nwant %s", out, want)
		}
	}
	if strings.Contains(string(out), "hunter2") {
		t.Errorf("a secret shows:\n%s", out)
	}
	again := defaults()
	if err := Load(&again, Source{Data: out, Env: env}); err != nil || fmt.Sprint(again) != fmt.Sprint(cfg) {
		t.Errorf("loading what was printed: %v\nhave %+v\nwant %+v", err, again, cfg)
	}
}

func TestDurationText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Second: "1s", 10 * time.Second: "10s", 90 * time.Second: "1m30s", 5 * time.Minute: "5m",
		time.Hour: "1h", 10 * time.Hour: "10h", 90 * time.Minute: "1h30m", time.Hour + time.Second: "1h0m1s",
		250 * time.Millisecond: "250ms",
	} {
		if have := durationText(d); have != want {
			t.Errorf("have %s, want %s", have, want)
		}
	}
}
