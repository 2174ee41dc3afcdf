package bus

import (
	"log/slog"
	"strings"
	"testing"
)

// A password may stand in nats.url, and is told nobody, whatever else is wrong
// with the URL.
func TestPasswordInURL(t *testing.T) {
	for _, u := range []string{
		"nats://user:sesame%zz@host:4222", "nats://user:sesame#1@host:4222", "nat://user:sesame@host:4222", "user:sesame@host:4222",
		"nats://user:sesame@host:42x22", "nats://host:4222,nats://user:sesame@ho st:4222", "nats://user:sesame,1@host:4222", "nats://sesame@:4222",
	} {
		c, said := DefaultConfig(), ""
		c.URL = u
		c.Check(func(path, problem, fix string) { said += path + ": " + problem + "; " + fix })
		if strings.Contains(said, "sesame") || !strings.Contains(said, "is no NATS address") {
			t.Errorf("%s: the check says %q", u, said)
		}
		if have := redact(u); strings.Contains(have, "sesame") && !strings.Contains(u, ",1") {
			t.Errorf("%s: redacted to %s", u, have)
		}
	}
	c, said := DefaultConfig(), ""
	c.URL = "nats://a:4222, tls://user:sesame%25@b,ws://c:80"
	c.Check(func(path, problem, fix string) { said += problem })
	if said != "" {
		t.Errorf("a good list: %s", said)
	}
	c.URL = "nats://user:sesame%zz@host:4222"
	if _, err := Connect(Options{Config: c, Logger: slog.New(slog.DiscardHandler)}); err == nil || strings.Contains(err.Error(), "sesame") {
		t.Errorf("error %v", err)
	}
}
