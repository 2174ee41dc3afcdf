package source

import "testing"

func TestRedact(t *testing.T) {
	secrets := []string{"abcd", "abcdef123456", "Bearer xyz-987654"}
	for _, tt := range []struct{ name, text, want string }{
		{"nothing in it", "answered 500", "answered 500"},
		{"one", "no such key abcdef123456", "no such key [redacted]"},
		{"one begins like another", "abcd, abcdef123456", "[redacted], [redacted]"},
		{"cut short", "id Bearer xyz-98… is not ours", "id [redacted]… is not ours"},
		{"cut short by jq", `cannot be applied to: string ("key is abcdef12 ...")`,
			`cannot be applied to: string ("key is [redacted]...")`},
		{"what merely begins like one", "it takes a…", "it takes a…"},
		{"cut short twice", "Bear… and Bearer x…", "[redacted]… and [redacted]…"},
	} {
		if have := Redact(tt.text, secrets); have != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, have, tt.want)
		}
	}
	if secrets[0] != "abcd" {
		t.Errorf("the list was sorted in place: %q", secrets)
	}
}
