package poller

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestShape(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		p        Poll
		want     string // value, or keys and values; or part of the error
	}{
		{"select", `{"a":{"b":[1,2]}}`, Poll{Select: ".a.b"}, `[1,2]`},
		{"number as written", `{"a":115792089237316195423570985008687907853269984665640564039457584007913129639935}`, Poll{Select: ".a"},
			`115792089237316195423570985008687907853269984665640564039457584007913129639935`},
		{"null", `{}`, Poll{Select: ".a"}, `null`},
		{"none", `{}`, Poll{Select: "empty"}, "select gives no value"},
		{"several", `[1,2]`, Poll{Select: ".[]"}, "select gives several values; put it into [ ] for a list"},
		{"wrong type", `"x"`, Poll{Select: ".a"}, `select: expected an object but got: string`},
		{"error", `1`, Poll{Select: `error("no such thing")`}, "select: error: no such thing"},
		{"endless", `1`, Poll{Select: "[range(1; infinite)] | length"}, "select takes too long"},
		{"endless recursion", `1`, Poll{Select: "def f: f; f"}, "select takes too long"},
		{"no environment", `1`, Poll{Select: "env | length"}, "0"},
		{"each", `{"d":[{"n":"a","v":1},{"n":"b/c","v":2}]}`, Poll{Each: ".d[]", Key: ".n"}, `a={"n":"a","v":1} b%2Fc={"n":"b/c","v":2}`},
		{"numbers as keys", `[{"id":17},{"id":18}]`, Poll{Each: ".[]", Key: ".id"}, `17={"id":17} 18={"id":18}`},
		{"object", `{"x":1,"y":2}`, Poll{Select: "to_entries", Each: ".[]", Key: ".key"}, `x={"key":"x","value":1} y={"key":"y","value":2}`},
		{"no items", `[]`, Poll{Each: ".[]", Key: ".id"}, ``},
		{"each of nothing", `null`, Poll{Each: ".[]", Key: ".id"}, "each: cannot iterate over: null"},
		{"key missing", `[{"id":1},{}]`, Poll{Each: ".[]", Key: ".id"}, "key of item 2 is null; text or a number is needed"},
		{"key twice", `[{"id":1},{"id":"1"}]`, Poll{Each: ".[]", Key: ".id"}, `items 1 and 2 have the same key`},
		{"too many", `[1,2,3]`, Poll{Each: ".[]", Key: ".", MaxKeys: 2}, "each gives more than 2 items (maxKeys)"},
		{"endless items", `1`, Poll{Each: "repeat(1)", Key: "."}, "each gives more than 1000 items"},
		{"advance", `{"h":true}`, Poll{MustAdvance: MustAdvance{Path: ".h"}}, "mustAdvance.path gives boolean; a number or text is needed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.p.Interval = time.Second
			s, bad := tt.p.withDefaults(Source{}).shape()
			if len(bad) > 0 {
				t.Fatal(bad)
			}
			out, err := s.apply(t.Context(), []byte(tt.in))
			have := string(out.value)
			if err != nil {
				have = err.Error()
			} else if s.keyed() {
				var all []string
				for _, it := range out.items {
					all = append(all, it.token+"="+string(it.value))
				}
				have = strings.Join(all, " ")
			}
			if have != tt.want && (err == nil || !strings.Contains(have, tt.want)) {
				t.Errorf("have %s, want %s", have, tt.want)
			}
		})
	}
	s, _ := Poll{Interval: time.Hour, Select: "def f: f; f"}.shape()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.apply(ctx, []byte("1")); err == nil {
		t.Error("an expression outlives its context")
	}
}

func TestCompilePlace(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{".a | }", `at character 6: unexpected token "}"`},
		{".a |", "at character 5: unexpected EOF"},
		{".a\n| nope", `at line 2, character 3: function not defined: nope/0`},
		{".a + $x", `at character 6: variable not defined: $x`},
		{`"abc`, "unterminated string literal"},
		{`input`, "not allowed"},
		{`import "m" as m; m::f`, "m"},
	} {
		if _, err := compile("select", tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: have %v, want %s", tt.text, err, tt.want)
		}
	}
}

func TestWithin(t *testing.T) {
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
		b, err := newBand(tt.path, tt.amount)
		if err != nil {
			t.Fatal(err)
		}
		var ignore []path
		if tt.ignore != "" {
			ignore = []path{{tt.ignore}}
		}
		if have := within([]byte(tt.new), []byte(tt.old), []band{b}, ignore); have != tt.same {
			t.Errorf("%s to %s, %s by %v: same = %v, want %v", tt.old, tt.new, tt.path, tt.amount, have, tt.same)
		}
	}
}

func TestAdvancing(t *testing.T) {
	var a advancing
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
		if have := a.see(step.mark, begin.Add(time.Duration(step.at)*time.Second), 10*time.Second); have != step.still {
			t.Errorf("step %d, %v at %d s: still = %v, want %v", i, step.mark, step.at, have, step.still)
		}
	}
	var b advancing
	b.seed(7, begin)
	if !b.see(7, begin.Add(11*time.Second), 10*time.Second) || b.see(8, begin.Add(12*time.Second), 10*time.Second) {
		t.Error("what an earlier process saw does not count")
	}
}

func BenchmarkShape(b *testing.B) {
	var in strings.Builder
	for i := range 100 {
		fmt.Fprintf(&in, `,{"id":"k%d","v":%d}`, i, i)
	}
	s, _ := Poll{Interval: time.Second, Each: ".[]", Key: ".id", MaxKeys: 1000}.shape()
	raw := []byte("[" + in.String()[1:] + "]")
	b.ReportAllocs()
	for b.Loop() {
		if out, err := s.apply(b.Context(), raw); err != nil || len(out.items) != 100 {
			b.Fatal(err)
		}
	}
}
