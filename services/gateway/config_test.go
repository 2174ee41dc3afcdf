package gateway

import (
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		change func(*Config)
		want   string // "" means no mistake
	}{
		{func(*Config) {}, ""},
		{func(c *Config) { c.Listen, c.Operations = "127.0.0.1:0", "127.0.0.1:0" }, ""},
		{func(c *Config) { c.Operations = "" }, ""},
		{func(c *Config) { c.Listen = "12080" }, `listen: "12080" is no address; write host:port`},
		{func(c *Config) { c.Listen = ":65536" }, `listen: ":65536" has no port from 0 to 65535`},
		{func(c *Config) { c.Operations = "127.0.0.1:1208x" }, `operations: "127.0.0.1:1208x" has no port`},
		{func(c *Config) { c.Operations = c.Listen }, "operations: it is the address for clients as well; use another port"},
		{func(c *Config) { c.AllowedOrigins = []string{"*", "app.example.com"} }, `allowedOrigins[1]: "app.example.com" is no origin`},
	} {
		c, said := DefaultConfig(), ""
		tt.change(&c)
		c.Check(func(path, problem, fix string) { said += path + ": " + problem + "; " + fix })
		if tt.want == "" && said != "" || !strings.HasPrefix(said, tt.want) {
			t.Errorf("the check says %q, want %q", said, tt.want)
		}
	}
}
