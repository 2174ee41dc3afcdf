package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// FuzzLoad checks that Load does not panic and ends, that every mistake has one
// line, and that the output of Print loads to the same configuration.
func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/*.yaml", "testdata/bad/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data, "POLLCAST_GATEWAY_LISTEN=:1", "gateway.listen=:2")
		}
	}
	f.Add([]byte(overridden), statusPrefix+"PARAMS={a: [1, 2]}", `poller.sources.host.polls."a.b".params={x: 1e3}`)
	f.Add([]byte("a: &a [*a, *a]"), "POLLCAST_NATS={url: u}", "poller.sources.x[0]=1")
	f.Fuzz(func(t *testing.T, data []byte, env, set string) {
		start := time.Now()
		cfg := defaults()
		err := Load(&cfg, Source{File: "f", Data: data, Env: append([]string{"A=1", env}, goodEnv...), Sets: []string{set}})
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("loading %d bytes took %s", len(data), took)
		}
		if bad, ok := errors.AsType[*Error](err); ok {
			if have, most := strings.Count(err.Error(), "\n"), min(len(bad.Problems), maxLines+1); have >= most {
				t.Errorf("have %d lines for %d problems", have+1, len(bad.Problems))
			}
			return
		}
		if err != nil {
			t.Fatalf("have %T, want *Error", err)
		}
		out, err := Print(&cfg)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(out), redacted+"@") {
			return // a redacted URL cannot be loaded
		}
		again := defaults()
		unredacted := strings.ReplaceAll(string(out), "'"+redacted+"'", "s")
		if err := Load(&again, Source{File: "printed", Data: []byte(unredacted)}); err != nil {
			t.Fatalf("what was printed does not load: %v\n%s", err, out)
		}
		have, err := Print(&again)
		if err != nil {
			t.Fatal(err)
		}
		if have := strings.ReplaceAll(string(have), "'"+redacted+"'", "s"); have != unredacted {
			t.Errorf("have\n%s\nwant\n%s", have, unredacted)
		}
	})
}
