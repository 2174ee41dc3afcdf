package topic

import (
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		fn   func(string) error
		in   string
		want string // part of the error; "" means valid
	}{
		{Check, "host.system.status", ""},
		{Check, "eth.balance.0xAb-_9", ""},
		{Check, "a.b.%2E", ""},
		{Check, "host", "needs at least 2"},
		{Check, "", "it is empty"},
		{Check, "a..b", "token 2 is empty"},
		{Check, ".a.b", "token 1 is empty"},
		{Check, "a.b.", "token 3 is empty"},
		{Check, "a.*", "wildcard"},
		{Check, "a.>", "wildcard"},
		{Check, "a._fresh", "reserved"},
		{Check, "a.b c", "holds ' '"},
		{Check, "a.%2e", "holds '%'"},
		{Check, "a.b%", "holds '%'"},
		{Check, "a.b%2", "holds '%'"},
		{Check, "a.ü", "holds"},
		{Check, "a." + strings.Repeat("b", MaxLen), "at most 512"},
		{Check, strings.Repeat("a.", MaxTokens) + "a", "at most 32"},
		{CheckPattern, ">", ""},
		{CheckPattern, "*", ""},
		{CheckPattern, "host.*.status", ""},
		{CheckPattern, "host.>", ""},
		{CheckPattern, "host.>.x", "only stand at the end"},
		{CheckPattern, "host.x>", "holds '>'"},
		{CheckPattern, "host._fresh", "reserved"},
		{CheckToken, "host", ""},
		{CheckToken, "host.a", "one token"},
		{CheckName, "system.status", ""},
		{CheckName, "system", ""},
	} {
		err := tt.fn(tt.in)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%q: unexpected error: %v", tt.in, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%q: have error %v, want %q in it", tt.in, err, tt.want)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, topic string
		want           bool
	}{
		{"a.b", "a.b", true},
		{"a.b", "a.c", false},
		{"a.b", "a.b.c", false},
		{"a.b.c", "a.b", false},
		{"a.*", "a.b", true},
		{"a.*", "a.b.c", false},
		{"*.b", "a.b", true},
		{"a.>", "a.b.c", true},
		{"a.>", "a", false},
		{">", "a.b", true},
		{"a.*.>", "a.b", false},
		{"a.*.>", "a.b.c", true},
		{"ab", "a", false},
	} {
		if have := Match(tt.pattern, tt.topic); have != tt.want {
			t.Errorf("Match(%q, %q) = %v, want %v", tt.pattern, tt.topic, have, tt.want)
		}
	}
}

func TestCoversPoll(t *testing.T) {
	for _, tt := range []struct {
		pattern, poll string
		want          bool
	}{
		{"host.>", "host.system.status", true},
		{"host.system.status", "host.system.status", true},
		{"host.system.*", "host.system.status", true},
		{"eth.balance.0xabc", "eth.balance", true},
		{"eth.balance.0xabc.more", "eth.balance", false},
		{"eth.*.0xabc", "eth.balance", true},
		{"eth.balance", "eth.balances", false},
		{"host", "host.system.status", false},
		{"*", "host.system", false},
		{">", "host.system", true},
		{"eth.balance.*", "eth.balance", true},
		{"eth.balance.>", "eth.balance", true},
	} {
		if have := CoversPoll(tt.pattern, tt.poll); have != tt.want {
			t.Errorf("CoversPoll(%q, %q) = %v, want %v", tt.pattern, tt.poll, have, tt.want)
		}
	}
}

func TestCanonical(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"b.c a.b", "a.b b.c"},
		{"a.b a.b", "a.b"},
		{"a.b a.>", "a.>"},
		{"a.> a.* a.*.c >", ">"},
		{"a.* a.b a.>", "a.>"},
		{"*.b a.*", "*.b a.*"},
		{"a.> *.>", "*.>"},
	} {
		if have := strings.Join(Canonical(strings.Fields(tt.in)), " "); have != tt.want {
			t.Errorf("Canonical(%s) = %s, want %s", tt.in, have, tt.want)
		}
	}
}

func FuzzKey(f *testing.F) {
	for _, s := range []string{"", "a", "_a", "a.b", "/dev/sda1", "ü%", "%00", "\x00", "0xAb"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		tok := EscapeKey(key)
		if len(tok) < MaxLen-2 {
			if err := Check("a." + tok); err != nil {
				t.Fatalf("EscapeKey(%q) = %q is no token: %v", key, tok, err)
			}
		}
		if have, ok := UnescapeKey(tok); !ok || have != key {
			t.Fatalf("UnescapeKey(EscapeKey(%q)) = %q, %v", key, have, ok)
		}
	})
}

func FuzzPattern(f *testing.F) {
	f.Add("a.>", "a.*.b")
	f.Add("*", "_x")
	f.Fuzz(func(t *testing.T, a, b string) {
		if CheckPattern(a) != nil || CheckPattern(b) != nil {
			return
		}
		if Overlap(a, b) != Overlap(b, a) {
			t.Fatalf("Overlap(%q, %q) is not symmetric", a, b)
		}
		if contains(a, b) && !Overlap(a, b) {
			t.Fatalf("%q contains %q but they do not overlap", a, b)
		}
		if !IsPattern(b) && Match(a, b) != contains(a, b) {
			t.Fatalf("Match(%q, %q) = %v but contains says %v", a, b, Match(a, b), contains(a, b))
		}
	})
}
