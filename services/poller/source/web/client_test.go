package web

import (
	"strings"
	"testing"
	"time"
)

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, "-1": 0, "soon": 0, "99999999999999": 0,
		"Fri, 02 Jan 2026 03:05:05 GMT": time.Minute, "Fri, 02 Jan 2026 03:00:05 GMT": 0,
	} {
		if have := parseRetryAfter(s, now); have != want {
			t.Errorf("Retry-After %q: %v, want %v", s, have, want)
		}
	}
}

func TestShort(t *testing.T) {
	for in, want := range map[string]string{
		"ä": "ä", strings.Repeat("ä", 40): strings.Repeat("ä", 40), strings.Repeat("ä", 41): strings.Repeat("ä", 40) +
			"…",
	} {
		if have := Short(in); have != want {
			t.Errorf("%s: %s", in, have)
		}
	}
}
