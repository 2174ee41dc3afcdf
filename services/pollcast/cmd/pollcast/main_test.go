package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestVerbs(t *testing.T) {
	for _, tt := range []struct {
		args string
		code int
		want string
	}{
		{"", 2, "pollcast up "},
		{"help", 0, "pollcast up "},
		{"help tail", 0, "pollcast tail [flags]"},
		{"help help", 0, "pollcast up "},
		{"help frob", 2, `"frob" is no verb`},
		{"version", 0, " go1."},
		{"--version", 0, " go1."},
		{"frob", 2, `"frob" is no verb`},
		{"reload -url 127.0.0.1:1", 1, "reload: http://127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused; " +
			"it must be the operations address of a running poller"},
	} {
		var out bytes.Buffer
		code := run(t.Context(), func() {}, strings.Fields(tt.args), nil, &out, &out)
		if code != tt.code || !strings.Contains(out.String(), tt.want) {
			t.Errorf("pollcast %s: exit code %d, want %d and %q; output:\n%s", tt.args, code, tt.code, tt.want, out.String())
		}
	}
}
