package config

import "testing"

func TestCheckAddress(t *testing.T) {
	for addr, want := range map[string]string{
		":12080": "", "127.0.0.1:0": "", "[::1]:65535": "", "host:1": "",
		"":                `"" is no address`,
		"12080":           `"12080" is no address`,
		"localhost":       `"localhost" is no address`,
		"::1:80":          `"::1:80" is no address`,
		"localhost:":      `"localhost:" has no port from 0 to 65535`,
		":65536":          `":65536" has no port from 0 to 65535`,
		":-1":             `":-1" has no port from 0 to 65535`,
		"127.0.0.1:1208x": `"127.0.0.1:1208x" has no port from 0 to 65535`,
	} {
		have := ""
		if err := CheckAddress(addr); err != nil {
			have = err.Error()
		}
		if have != want {
			t.Errorf("%q: have %q, want %q", addr, have, want)
		}
	}
}
