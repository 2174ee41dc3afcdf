package jq

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/config"
)

// TestTemplates checks what texts with {{ jq }} become.
func TestTemplates(t *testing.T) {
	t.Parallel()
	now := time.Unix(1700000000, 0)
	m := Moment{
		Now: now.Add(1500 * time.Millisecond), Slot: now, Position: 26,
		Prev: json.RawMessage(`{"n":41,"big":123456789012345678901,"t":"a b/c"}`),
	}
	for _, tt := range []struct{ text, want string }{ // want: JSON, or an error after !
		{"plain }} text", `"plain }} text"`},
		{"{{ $slot }}", `1700000000`},
		{"{{ $now }}", `1700000001.5`},
		{"at {{ $slot }}!", `"at 1700000000!"`},
		{"{{ $position | hex }}", `"0x1a"`},
		{`{{ "0x1A" | fromhex }}`, `26`},
		{`{{ "-ffffffffffffffffffff" | fromhex }}`, `-1208925819614629174706175`},
		{`{{ "ffffffffffffffffffff" | fromhex | hex }}`, `"0xffffffffffffffffffff"`},
		{`{{ -5 | hex }}`, `"-0x5"`},
		{`{{ $prev.n | hex }}`, `"0x29"`},
		{`{{ $prev.big | hex }}`, `"0x6b14e9f812f366c35"`},
		{`{{ 1e3 | hex }}`, `"0x3e8"`},
		{"{{ $prev.n + 1 }}", `42`},
		{"{{ $prev.big }}", `123456789012345678901`},
		{"{{ {a:{b:$prev.n}} }}", `{"a":{"b":41}}`},
		{`{{ "}}" }}{{ "{{" }}`, `"}}{{"`},
		{"x{{ [$prev.n] }}y", `"x[41]y"`},
		{`{{ $slot | strftime("%Y-%m-%d") }}`, `"2023-11-14"`},
		{"{{ null }}", `null`},
		{"x{{ $prev.nope }}", "!params gives null"},
		{"{{ empty }}", "!params gives no value"},
		{"{{ 1, 2 }}", "!params gives several values"},
		{`{{ 1.5 | hex }}`, "!no whole number"},
		{`{{ "xyz" | fromhex }}`, `!fromhex cannot be applied to this string`},
		{`{{ "0x" | fromhex }}`, `!fromhex cannot be applied to this`},
		{`{{ "1_0" | fromhex }}`, `!fromhex cannot be applied to`},
		{`{{ {} | hex }}`, "!hex cannot be applied to this object"},
		{"{{ [range(1e9)] | length }}", "!params takes too long"},
		{`{{ "x" * 2000000 }}`, "!more than 1 MiB"},
		{`{{ error("no") }}`, "!params: error: no"},
	} {
		q, bad := NewQuestion(Request{Params: tt.text}, append([]string{"$position"}, PollVariables...), 200*time.Millisecond)
		if len(bad) > 0 {
			t.Errorf("%s: %v", tt.text, bad[0].Err)
			continue
		}
		c, err := q.Call(t.Context(), m)
		switch problem, wrong := strings.CutPrefix(tt.want, "!"); {
		case wrong && (err == nil || !strings.Contains(err.Error(), problem)):
			t.Errorf("%s: error %v, want %s", tt.text, err, problem)
		case !wrong && (err != nil || string(c.Params) != tt.want):
			t.Errorf("%s: %s, %v; want %s", tt.text, c.Params, err, tt.want)
		}
	}
	// The result of an expression stays within its part of the path and its parameter.
	for _, tt := range []struct{ path, want string }{
		{"{{ $prev.t }}/x", "a%20b%2Fc/x"},
		{"a/{{ \"..\" }}", "!path holds . or .."},
		{"a/{{ \"\" }}/b", "!path gives an empty text"},
		{"a/{{ $position }}", "a/26"},
	} {
		q, bad := NewQuestion(Request{Path: tt.path, Query: map[string]config.Secret{"q": config.NewSecret("{{ $prev.t }}&"), "s": config.NewSecret("1")}},
			[]string{"$prev", "$position"}, time.Second)
		if len(bad) > 0 {
			t.Fatal(bad)
		}
		c, err := q.Call(t.Context(), m)
		if problem, wrong := strings.CutPrefix(tt.want, "!"); wrong {
			if err == nil || !strings.Contains(err.Error(), problem) {
				t.Errorf("%s: error %v, want %s", tt.path, err, problem)
			}
			continue
		}
		if want := (url.Values{"q": {"a b/c&"}, "s": {"1"}}).Encode(); err != nil || c.Path != tt.want || c.Query.Encode() != want {
			t.Errorf("%s: %s ? %s, %v; want %s ? %s", tt.path, c.Path, c.Query.Encode(), err, tt.want, want)
		}
	}
	if have := strings.Join(Literals(`token:${X} {{ $a + "in side" + {a:"}}"} }} end`), "|"); have != `token:${X} |in side|}}| end` {
		t.Errorf("literals %s", have)
	}
}
