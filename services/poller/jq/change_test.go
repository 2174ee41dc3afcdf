package jq

import (
	"fmt"
	"testing"
)

func TestDigest(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b   string
		ignore string
		same   bool
	}{
		{`{"a":1,"b":2}`, ` { "b" : 2, "a" : 1 } `, "", true},
		{`{"a":1}`, `{"a":2}`, "", false},
		{`1.0`, `1`, "", true},
		{`1e2`, `100`, "", true},
		{`0.10`, `1E-1`, "", true},
		{`-0.0`, `0`, "", true},
		{`-1`, `1`, "", false},
		{`10`, `1`, "", false},
		{`115792089237316195423570985008687907853269984665640564039457584007913129639935`,
			`115792089237316195423570985008687907853269984665640564039457584007913129639936`, "", false},
		{`123456789012345678901234567890`, `1.2345678901234567890123456789e29`, "", true},
		{`1e99999999999`, `1e99999999998`, "", false},
		{`"1"`, `1`, "", false},
		{`"a\u0062"`, `"ab"`, "", true},
		{`["a,b"]`, `["a","b"]`, "", false},
		{`{"a":"b,"}`, `{"a":"b"}`, "", false},
		{`[1,2]`, `[2,1]`, "", false},
		{`null`, `{}`, "", false},
		{`{"a":null}`, `{}`, "", false},
		{`{"t":1,"v":1}`, `{"t":2,"v":1}`, "t", true},
		{`{"t":1,"v":1}`, `{"t":2,"v":2}`, "t", false},
		{`{"t":1,"v":1}`, `{"v":1}`, "t", true},
		{`{"d":[{"free":1},{"free":2}]}`, `{"d":[{"free":3},{"free":4}]}`, "d.*.free", true},
		{`{"d":[{"free":1},{"free":2}]}`, `{"d":[{"free":3}]}`, "d.*.free", false},
		{`{"d":[1,2]}`, `{"d":[1,3]}`, "d.1", true},
		{`{"d":[1,2]}`, `{"d":[1,3]}`, "d.0", false},
		{`{"t":1}`, `{"t":2}`, "t.x", false},
	} {
		var ignore []Path
		if tt.ignore != "" {
			p, err := ParsePath(tt.ignore)
			if err != nil {
				t.Fatal(err)
			}
			ignore = []Path{p}
		}
		a, errA := DigestOf([]byte(tt.a), ignore)
		b, errB := DigestOf([]byte(tt.b), ignore)
		if errA != nil || errB != nil {
			t.Errorf("digest of %s, %s: %v, %v", tt.a, tt.b, errA, errB)
		} else if have := a == b; have != tt.same {
			t.Errorf("%s and %s, ignoring %q: same = %v, want %v", tt.a, tt.b, tt.ignore, have, tt.same)
		}
	}
	for _, bad := range []string{"", "{", "1 2", "nil"} {
		if _, err := DigestOf([]byte(bad), nil); err == nil {
			t.Errorf("digest of %q: no error", bad)
		}
	}
}

func FuzzCanonicalNumber(f *testing.F) {
	f.Add(int64(12300), uint8(2))
	f.Add(int64(-5), uint8(0))
	f.Add(int64(0), uint8(9))
	f.Fuzz(func(t *testing.T, n int64, zeros uint8) {
		plain := fmt.Sprint(n)
		have := canonicalNumber(nil, fmt.Sprintf("%d.%0*d", n, int(zeros)+1, 0))
		if want := canonicalNumber(nil, plain); string(have) != string(want) {
			t.Errorf("%s with zeros is %s, without %s", plain, have, want)
		}
		if n != 1<<63-1 {
			if other := canonicalNumber(nil, fmt.Sprint(n+1)); string(other) == string(canonicalNumber(nil, plain)) {
				t.Errorf("%d and %d are both %s", n, n+1, other)
			}
		}
	})
}
