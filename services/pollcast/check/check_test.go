package check

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCommand(t *testing.T) {
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	good := file("poller: {sources: {eth: {upstreams: ['http://127.0.0.1:1/'], polls: {head: {method: " +
		"eth_blockNumber, interval: 3s}}}}}")
	bad := file("poller: {sources: {eth: {upstreams: ['http://127.0.0.1:1/'], polls: {head: {method: m, intervall: " +
		"3s}}}}}\ngateway: {pingInterval: 5}")
	for _, tt := range []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"good", []string{good}, 0, []string{"the configuration is good", "eth.head", "3s"}},
		{"built in", nil, 0, []string{"host.system.status"}},
		{"every mistake at once", []string{bad}, 2, []string{bad + ":1:", `did you mean "interval"`, bad + ":2:",
			"pingInterval"}},
		{"no such file", []string{"/nowhere.yaml"}, 2, []string{"/nowhere.yaml"}},
		{"flags behind the file", []string{good, "-set", "gateway.lisen=:1"}, 2,
			[]string{`-set gateway.lisen: gateway: unknown key "lisen"; did you mean "listen"?`}},
		{"two files", []string{good, bad}, 2, []string{"one file at a time"}},
		{"schema", []string{"-schema"}, 0, []string{`"$schema"`}},
		{"help", []string{"-help"}, 0, []string{"-config"}},
	} {
		var out bytes.Buffer
		code := Command(tt.args, nil, &out, &out)
		for _, want := range tt.want {
			if code != tt.code || !strings.Contains(out.String(), want) {
				t.Errorf("%s: exit code %d, want %d with %q; output:\n%s", tt.name, code, tt.code, want, out.String())
			}
		}
	}
}
