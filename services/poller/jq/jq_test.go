package jq

import (
	"strings"
	"testing"
	"time"
)

func TestCompilePlace(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ text, want string }{
		{".a | }", `at character 6: unexpected token "}"`},
		{".a |", "at character 5: unexpected EOF"},
		{".a\n| nope", `at line 2, character 3: function not defined: nope/0`},
		{".a + $x", `at character 6: variable not defined: $x`},
		{`"abc`, "unterminated string literal"},
		{`input`, "not allowed"},
		{`import "m" as m; m::f`, "m"},
	} {
		if _, err := Compile("select", tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: have %v, want %s", tt.text, err, tt.want)
		}
	}
}

func TestWithin(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		old, new string
		path     string
		amount   float64
		ignore   string
		same     bool
	}{
		{`1`, `1.5`, ".", 0.5, "", true},
		{`1`, `1.51`, ".", 0.5, "", false},
		{`1`, `0.5`, ".", 0.5, "", true},
		{`1`, `"1"`, ".", 0.5, "", false},
		{`{"a":1,"b":1}`, `{"a":2,"b":1}`, "a", 1, "", true},
		{`{"a":1,"b":1}`, `{"a":2,"b":2}`, "a", 1, "", false},
		{`{"a":1,"b":1}`, `{"a":2,"b":2}`, "*", 1, "", true},
		{`{"a":1,"t":1}`, `{"a":2,"t":9}`, "a", 1, "t", true},
		{`{"d":[{"f":10},{"f":20}]}`, `{"d":[{"f":11},{"f":19}]}`, "d.*.f", 1, "", true},
		{`{"d":[{"f":10},{"f":20}]}`, `{"d":[{"f":11}]}`, "d.*.f", 1, "", false},
		{`{"a":1}`, `{"a":1,"b":1}`, "*", 5, "", false},
		{`{"a":1}`, `{"a":null}`, "a", 5, "", false},
		{`100000000000000000000000000001`, `100000000000000000000000000003`, ".", 1, "", false},
		{`100000000000000000000000000001`, `100000000000000000000000000002`, ".", 1, "", true},
		{`1e999999999999`, `1`, ".", 1, "", false},
	} {
		b, err := NewBand(tt.path, tt.amount)
		if err != nil {
			t.Fatal(err)
		}
		var ignore []Path
		if tt.ignore != "" {
			ignore = []Path{{tt.ignore}}
		}
		if have := Within([]byte(tt.new), []byte(tt.old), []Band{b}, ignore); have != tt.same {
			t.Errorf("%s to %s, %s by %v: same = %v, want %v", tt.old, tt.new, tt.path, tt.amount, have, tt.same)
		}
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	var a Progress
	begin := time.Now()
	for i, step := range []struct {
		at    int // seconds
		mark  any
		still bool
	}{
		{0, 100, false}, {5, 100, false}, {10, 100, false}, {11, 100, true},
		{12, 101, false},                                    // it moves again
		{15, 100, false}, {18, 101, false}, {23, 101, true}, // to and fro is no progress
		{24, 3, true}, {25, 4, false}, {35, 5, false}, // a reset
		{40, "a", false}, {50, "a", false}, {51, "a", true}, {52, "A", false},
	} {
		if have := a.Observe(step.mark, begin.Add(time.Duration(step.at)*time.Second), 10*time.Second); have != step.still {
			t.Errorf("step %d, %v at %d s: still = %v, want %v", i, step.mark, step.at, have, step.still)
		}
	}
	var b Progress
	b.Seed(7, begin)
	if !b.Observe(7, begin.Add(11*time.Second), 10*time.Second) || b.Observe(8, begin.Add(12*time.Second), 10*time.Second) {
		t.Error("what an earlier process saw does not count")
	}
}
