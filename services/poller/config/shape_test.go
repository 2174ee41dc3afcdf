package config

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
			s, bad := tt.p.WithDefaults(Source{}).Shape()
			if len(bad) > 0 {
				t.Fatal(bad)
			}
			out, err := s.Apply(t.Context(), []byte(tt.in))
			have := string(out.Value)
			if err != nil {
				have = err.Error()
			} else if s.Keyed() {
				var all []string
				for _, it := range out.Items {
					all = append(all, it.Token+"="+string(it.Value))
				}
				have = strings.Join(all, " ")
			}
			if have != tt.want && (err == nil || !strings.Contains(have, tt.want)) {
				t.Errorf("have %s, want %s", have, tt.want)
			}
		})
	}
	s, _ := Poll{Interval: time.Hour, Select: "def f: f; f"}.Shape()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Apply(ctx, []byte("1")); err == nil {
		t.Error("an expression outlives its context")
	}
}

func BenchmarkShape(b *testing.B) {
	var in strings.Builder
	for i := range 100 {
		fmt.Fprintf(&in, `,{"id":"k%d","v":%d}`, i, i)
	}
	s, _ := Poll{Interval: time.Second, Each: ".[]", Key: ".id", MaxKeys: 1000}.Shape()
	raw := []byte("[" + in.String()[1:] + "]")
	b.ReportAllocs()
	for b.Loop() {
		if out, err := s.Apply(b.Context(), raw); err != nil || len(out.Items) != 100 {
			b.Fatal(err)
		}
	}
}
