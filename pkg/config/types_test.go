package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func TestSecretNeverShows(t *testing.T) {
	const hidden = "hunter2"
	type holder struct {
		Token  Secret            `yaml:"token"`
		Many   []Secret          `yaml:"many"`
		ByName map[string]Secret `yaml:"byName"`
		Ptr    *Secret           `yaml:"ptr"`
		inside Secret
	}
	s := NewSecret(hidden)
	h := holder{s, []Secret{s}, map[string]Secret{"k": s}, &s, s}

	var shown []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%q", "%s", "%x", "%X", "%d", "%T", "%p", "%10.3s", "%t", "%!"} {
		shown = append(shown, fmt.Sprintf(verb, s), fmt.Sprintf(verb, &s), fmt.Sprintf(verb, h), fmt.Sprintf(verb, &h))
	}
	shown = append(shown, fmt.Sprint(s), fmt.Sprintln(h), s.String(), fmt.Errorf("connect: %v", h).Error(),
		fmt.Sprint(reflect.ValueOf(h)))
	for _, handler := range []func(*bytes.Buffer) slog.Handler{
		func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		var b bytes.Buffer
		slog.New(handler(&b)).Info("loaded", "secret", s, "pointer", &s, "holder", h, "config", &h, slog.Group("g", "s", s))
		shown = append(shown, b.String())
	}
	for _, marshal := range []func(any) ([]byte, error){json.Marshal, yaml.Marshal,
		func(v any) ([]byte, error) { return Print(v) }} {
		out, err := marshal(&h)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(out, []byte(redacted)) {
			t.Errorf("%s does not say %s", out, redacted)
		}
		shown = append(shown, string(out))
	}
	for _, f := range Describe(&h) {
		shown = append(shown, fmt.Sprint(f))
	}
	shown = append(shown, string(JSONSchema(&h)), Reference(&h))
	for _, have := range shown {
		for _, leak := range []string{hidden, fmt.Sprintf("%x", hidden), fmt.Sprintf("%X", hidden), hidden[:3]} {
			if strings.Contains(have, leak) {
				t.Errorf("%q shows the secret", have)
			}
		}
	}
	if have, want := fmt.Sprintf("%v|%s|%#v|%d", s, s, s, s), strings.Repeat("|"+redacted, 4)[1:]; have != want {
		t.Errorf("have %s, want %s", have, want)
	}
	if have := fmt.Sprintf("%v", Secret{}); have != "" || !(Secret{}).IsZero() || (Secret{}).Reveal() != "" {
		t.Errorf("have %q for the empty secret, want nothing", have)
	}
}

// Mistakes must not quote the value of a secret setting or of a variable.
func TestSecretNotInMistakes(t *testing.T) {
	env := []string{"S=hunter2"}
	for _, text := range []string{
		"nats: {token: [hunter2]}",
		"nats: {token: {hunter2: x}}",
		"nats: {token: 'hunter2${'}",
		"nats: {token: 'hunter2${hunter2 x}'}",
		"nats: {token: 'hunter2${NOT_SET}'}",
		"nats: hunter2",
		"nats: {replicas: '${S}', url: ok}",
		"gateway: {maxFrame: '${S}', compress: '${S}', maxClients: '${S}', origins: '${S}'}",
		"log: {level: '${S}'}",
		"poller: {sources: {a: {breaker: {openFor: '${S}', failures: '${S}'}, upstreams: [{url: x, weight: '${S}'}]}}}",
	} {
		_, err := load(text, env, nil)
		if err == nil {
			t.Errorf("%s: have no error", text)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error shows the secret: %v", text, err)
		}
	}
}

func TestSecretRefusesItsOwnPrint(t *testing.T) {
	if err := new(Secret).UnmarshalText([]byte(redacted)); !errors.Is(err, errRedacted) {
		t.Errorf("have %v, want %v", err, errRedacted)
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "1": 1, "1000": 1000, "512B": 512, "64KiB": 64 << 10, "1MiB": 1 << 20, "3GiB": 3 << 30, "2TiB": 2 << 40,
		"9223372036854775807": 1<<63 - 1,
	} {
		var have Size
		if err := have.UnmarshalText([]byte(text)); err != nil || have != want {
			t.Errorf("%s: have %d and %v, want %d", text, have, err, want)
		}
		var again Size
		if err := again.UnmarshalText([]byte(want.String())); err != nil || again != want {
			t.Errorf("%s prints as %s, which reads as %d, %v", text, want, again, err)
		}
	}
	for size, want := range map[Size]string{0: "0", 1023: "1023", 1024: "1KiB", 1536: "1536", 64 << 20: "64MiB"} {
		if have := size.String(); have != want {
			t.Errorf("have %s, want %s", have, want)
		}
	}
	for _, text := range []string{"", "x", "-1", "1.5MiB", "1MB", "1kb", "1Mi", "1 MiB", "KiB", "9223372036854775808",
		"8388608TiB", "0x10", "+5"} {
		if have := Size(7); have.UnmarshalText([]byte(text)) == nil || have != 7 {
			t.Errorf("%q: have %d and no error, want an error and no change", text, have)
		}
	}
}
