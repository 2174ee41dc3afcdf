package jq

import (
	"strings"
	"testing"

	"github.com/itchyny/gojq"
)

// TestPublicWords checks that no public error text quotes the upstream's answer: clients
// may see only what select leaves of it.
func TestPublicWords(t *testing.T) {
	t.Parallel()
	const in = `{"s":"sesame) and number (sesame","n":4711,"o":{"sesame":[4711]},"a":["sesame"],"b":true}`
	for _, tt := range []struct{ text, want string }{
		{`.s.x`, "expected an object but got: string"},
		{`.n[]`, "cannot iterate over: number"},
		{`.o[0]`, "expected an array but got: object"},
		{`.s + .n`, "cannot add: string and number"},
		{`.o - .a`, "cannot subtract: object and array"},
		{`.n / 0`, "cannot divide number by: number"},
		{`.s | tonumber`, "tonumber cannot be applied to this string"},
		{`.s | fromjson`, "fromjson cannot be applied to this string"},
		{`.a | ltrimstr("sesame")`, "ltrimstr cannot be applied to this array"},
		{`.o | has(4711)`, "has cannot be applied to this object"},
		{`.s | strptime("%Y")`, "strptime cannot be applied to this string"},
		{`.s as $s | $s | test($s + "(")`, "invalid regular expression"},
		{`[.o] | @csv`, "@csv cannot format an array including: object"},
		{`.s | @base64d`, "@base64d cannot be applied to this string"},
		{`.a[4711471147114711] = 1`, "setpath cannot be applied to this object"},
		{`{(.n): 1}`, "expected a string for object key but got: number"},
		{`.s * 1e20`, "repeat string result too large"},
		{`.a | .[{}]`, `expected "start" and "end" for slicing but got: object`},
		{`.s as $s | $s | format($s)`, "format not defined"},
		{`delpaths([["s", "x"]])`, "delpaths cannot be applied to this object"},
		{`.s as $s | $s | gsub("a"; "b"; $s)`, "unsupported regular expression flag"},
		{`.s | fromhex`, "fromhex cannot be applied to this string"},
		{`.n + 0.25 | hex`, "hex cannot be applied to what is no whole number"},
		{`.o | hex`, "hex cannot be applied to this object"},
		{`.b | length`, "length cannot be applied to this boolean"},
		{`error("the node is syncing")`, "error: the node is syncing"}, // as was asked for
	} {
		e, err := Compile("select", tt.text)
		if err != nil {
			t.Fatalf("%s: %v", tt.text, err)
		}
		v, err := Decode([]byte(in))
		if err != nil {
			t.Fatal(err)
		}
		_, err = e.One(t.Context(), v)
		switch {
		case err == nil:
			t.Errorf("%s: no error", tt.text)
		case strings.Contains(err.Error(), "sesame"), strings.Contains(err.Error(), "4711"):
			t.Errorf("%s tells: %v", tt.text, err)
		case err.Error() != "select: "+tt.want:
			t.Errorf("%s: have %q, want %q", tt.text, err, tt.want)
		}
	}
	for _, odd := range []string{"", "42 sesame", "Sesame: sesame", `"sesame"`, "(sesame", "a cannot be applied to", "null: sesame"} {
		if have := publicWords(&oddError{odd}); have == "" || strings.Contains(have, "sesame") {
			t.Errorf("%q becomes %q", odd, have)
		}
	}
	var own gojq.ValueError = &ownError{}
	if have := publicWords(own); have != "error: mine" {
		t.Errorf("have %q", have)
	}
}

type oddError struct{ text string }

func (e *oddError) Error() string { return e.text }

type ownError struct{}

func (*ownError) Error() string { return "error: mine" }

func (*ownError) Value() any { return "mine" }
