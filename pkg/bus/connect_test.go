package bus

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"
	"github.com/pollcast/pollcast/pkg/config"
)

// A password may stand in nats.url. No message shows it, whatever else is wrong
// with the URL.
func TestPasswordInURL(t *testing.T) {
	for _, u := range []string{
		"nats://user:sesame%zz@host:4222", "nats://user:sesame#1@host:4222", "nat://user:sesame@host:4222",
		"user:sesame@host:4222", "nats://user:sesame@host:42x22", "nats://host:4222,nats://user:sesame@ho st:4222",
		"nats://user:sesame,1@host:4222", "nats://sesame@:4222",
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
	_, err := Connect(Options{Config: c, Logger: slog.New(slog.DiscardHandler)})
	if err == nil || strings.Contains(err.Error(), "sesame") {
		t.Errorf("error %v", err)
	}
}

// A login that cannot work is reported before anything starts.
func TestCheckLogin(t *testing.T) {
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	token := "-----BEGIN NATS USER JWT-----\ne30.e30.e30\n------END NATS USER JWT------\n"
	key := "-----BEGIN USER NKEY SEED-----\n" + string(seed) + "\n------END USER NKEY SEED------\n"
	file := func(name, text string) string {
		name = filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for _, tt := range []struct {
		change func(*Config)
		want   string // "" means no mistake
	}{
		{func(c *Config) { c.Password = config.NewSecret("sesame") }, "user: a password is set, and nobody whose it is"},
		{
			func(c *Config) { c.User, c.Creds = "u", file("c", token+key) },
			"credentials: both a user and a credentials file are set",
		},
		{func(c *Config) { c.Creds = file("c", token+key) }, ""},
		{func(c *Config) { c.Creds = "/nowhere" }, "credentials: /nowhere: no such file or directory"},
		{func(c *Config) { c.Creds = "/" }, "credentials: /: is a directory"},
		{func(c *Config) { c.Creds = file("c", "sesame") }, "it holds no user's key"},
		{func(c *Config) { c.Creds = file("c", token) }, "it holds no user's key"},
		{func(c *Config) { c.URL = "nats://h:70000" }, `url: "nats://h:70000" is no NATS address`},
	} {
		c, said := DefaultConfig(), ""
		tt.change(&c)
		c.Check(func(path, problem, fix string) { said += path + ": " + problem + "; " + fix })
		if tt.want == "" && said != "" || !strings.Contains(said, tt.want) || strings.Contains(said, "sesame") {
			t.Errorf("the check says %q, want %q", said, tt.want)
		}
	}
}
