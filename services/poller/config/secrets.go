package config

import (
	"net/url"
	"strings"

	"github.com/pollcast/pollcast/services/poller/jq"
)

// SecretsOf lists what no error text may hold: the values of headers, and what may be a
// key in the parameters and the URLs. It leaves short texts out: they are no keys, and to
// hide them would make every message unreadable.
func SecretsOf(c Source) []string {
	var all []string
	add := func(s string, shortest int) {
		_, rest, _ := strings.Cut(s, ":") // "token:…"
		if _, r, ok := strings.Cut(s, " "); ok {
			rest = r // "Bearer …"
		}
		for _, part := range []string{s, rest} {
			if len(part) >= shortest {
				all = append(all, part)
			}
		}
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			for _, text := range jq.Literals(v) {
				add(text, 6)
			}
		case []any:
			for _, item := range v {
				walk(item)
			}
		case map[string]any:
			for _, item := range v {
				walk(item)
			}
		}
	}
	addRequest := func(a jq.Request) {
		walk(jq.Plain(a.Params))
		walk(jq.Plain(a.Body))
		for _, v := range a.Query {
			walk(v.Reveal())
		}
		for _, v := range a.Headers {
			add(v.Reveal(), 4)
		}
		for _, text := range jq.Literals(a.Path) {
			for part := range strings.SplitSeq(text, "/") {
				add(part, 12)
			}
		}
	}
	for _, p := range c.Polls {
		addRequest(p.request())
		if p.Follow != nil {
			addRequest(p.headRequest())
		}
	}
	for _, address := range c.Upstreams {
		u, err := url.Parse(address)
		if err != nil {
			continue
		}
		for part := range strings.SplitSeq(u.Path, "/") {
			add(part, 12)
		}
		for _, values := range u.Query() {
			for _, v := range values {
				add(v, 6)
			}
		}
	}
	_, credentials := c.Credentials()
	for _, s := range credentials {
		add(s, 4)
	}
	return all
}
