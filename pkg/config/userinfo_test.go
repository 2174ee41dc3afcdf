package config

import (
	"strings"
	"testing"
)

// Passwords in URLs are not printed, wherever the URL came from.
func TestPrintHidesUserinfo(t *testing.T) {
	const file = `
nats: {url: "nats://file:hunter2@h:4222"}
poller: {sources: {host: {upstreams: [
  {url: "https://u:hunter2@h/"}, {url: "https://plain/a@b"}, {url: "https://u:${PW}@h/"}]}}}
`
	src := Source{File: "f.yaml", Data: []byte(file),
		Env: []string{"PW=hunter2", "POLLCAST_NATS_URL=nats://user:hunter2@one,nats://token-hunter2@two"}}
	cfg := defaults()
	if err := Load(&cfg, src); err != nil {
		t.Fatal(err)
	}
	for name, from := range map[string][]Source{"with its source": {src}, "alone": nil} {
		out, err := Print(&cfg, from...)
		if err != nil {
			t.Fatal(err)
		}
		wants := []string{"nats://user:[redacted]@one,nats://[redacted]@two", "https://u:[redacted]@h/", "https://plain/a@b"}
		if from != nil {
			wants = append(wants, "https://u:${PW}@h/")
		}
		for _, want := range wants {
			if !strings.Contains(string(out), want) {
				t.Errorf("%s: have\n%s\nwant %s", name, out, want)
			}
		}
		if strings.Contains(string(out), "hunter2") {
			t.Errorf("%s: a secret shows:\n%s", name, out)
		}
	}
}

func TestHideUserinfo(t *testing.T) {
	for text, want := range map[string]string{
		"nats://h:4222": "nats://h:4222", "https://h/a:b@c": "https://h/a:b@c", "a:b@c": "a:b@c",
		"nats://u:p@h": "nats://u:[redacted]@h", "nats://u:p@q@h": "nats://u:[redacted]@h",
		"nats://t@h":  "nats://[redacted]@h",
		"nats://u:@h": "nats://u:@h", "nats://u:${P}@h": "nats://u:${P}@h", "nats://u:$${P}@h": "nats://u:[redacted]@h",
		"nats://u:x${P}@h": "nats://u:[redacted]@h",
	} {
		if have := hideUserinfo(text); have != want {
			t.Errorf("%s: have %s, want %s", text, have, want)
		}
	}
}
