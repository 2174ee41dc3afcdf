package jq

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// Digest identifies a value: equal digests mean equal values. The order of keys, white
// space, the way a number is written and the ignored parts do not matter.
type Digest [sha256.Size]byte

// Path names parts of a value: keys of objects and positions in arrays, "*" for any.
type Path []string

// ParsePath reads keys joined by dots. No key may be empty.
func ParsePath(s string) (Path, error) {
	p := Path(strings.Split(s, "."))
	if slices.Contains(p, "") {
		return nil, fmt.Errorf("path %q has an empty part", s)
	}
	return p, nil
}

// DigestOf returns the digest of one JSON value without its ignored parts.
func DigestOf(value []byte, ignore []Path) (Digest, error) {
	v, err := Decode(value)
	if err != nil {
		return Digest{}, err
	}
	return digestTree(v, ignore, len(value)), nil
}

// digestTree returns the digest of decoded JSON. It removes the ignored parts from v.
// size is about the length of the JSON in bytes.
func digestTree(v any, ignore []Path, size int) Digest {
	for _, p := range ignore {
		v = p.cut(v)
	}
	return sha256.Sum256(canonical(make([]byte, 0, size), v))
}

// Band is a part of a value whose number may differ by amount without being a change.
type Band struct {
	path   Path
	amount *big.Float
}

// bandBits is the precision in which numbers are subtracted: 77 digits.
const bandBits = 256

// NewBand returns the band of the path s, where "." is the value itself. amount must be
// finite and not negative.
func NewBand(s string, amount float64) (Band, error) {
	b := Band{amount: big.NewFloat(amount).SetPrec(bandBits)}
	if s == "." { // the value itself
		return b, nil
	}
	var err error
	b.path, err = ParsePath(s)
	return b, err
}

// Within reports whether value and old are equal, apart from what the bands allow and from
// the ignored parts. It is false if one of them is no JSON.
func Within(value, old []byte, bands []Band, ignore []Path) bool {
	v, err := Decode(value)
	if err != nil {
		return false
	}
	o, err := Decode(old)
	if err != nil {
		return false
	}
	for _, b := range bands {
		v = b.level(b.path, v, o)
	}
	return digestTree(v, ignore, len(value)) == digestTree(o, ignore, len(old))
}

// level replaces each number at the path by the old number if the two are near.
func (b Band) level(p Path, v, old any) any {
	if len(p) == 0 {
		x, ok := v.(json.Number)
		y, was := old.(json.Number)
		if ok && was && b.near(string(x), string(y)) {
			return old
		}
		return v
	}
	step, rest := p[0], p[1:]
	switch v := v.(type) {
	case map[string]any:
		o, _ := old.(map[string]any)
		for key, member := range v {
			if step == "*" || step == key {
				if was, ok := o[key]; ok {
					v[key] = b.level(rest, member, was)
				}
			}
		}
	case []any:
		o, _ := old.([]any)
		for i, member := range v[:min(len(v), len(o))] {
			if step == "*" || step == strconv.Itoa(i) {
				v[i] = b.level(rest, member, o[i])
			}
		}
	}
	return v
}

// near reports whether two numbers differ by at most amount.
func (b Band) near(x, y string) bool {
	f, _, errX := big.ParseFloat(x, 10, bandBits, big.ToNearestEven)
	g, _, errY := big.ParseFloat(y, 10, bandBits, big.ToNearestEven)
	if errX != nil || errY != nil || f.IsInf() || g.IsInf() {
		return false
	}
	d := f.Sub(f, g)
	return d.Abs(d).Cmp(b.amount) <= 0
}

// cut removes the parts at the path and returns what is left. In an array it leaves null,
// so that other positions keep their meaning.
func (p Path) cut(v any) any {
	if len(p) == 0 {
		return nil
	}
	step, rest := p[0], p[1:]
	switch v := v.(type) {
	case map[string]any:
		for key, member := range v {
			if step != "*" && step != key {
				continue
			}
			if len(rest) == 0 {
				delete(v, key)
			} else {
				v[key] = rest.cut(member)
			}
		}
	case []any:
		for i, item := range v {
			if step == "*" || step == strconv.Itoa(i) {
				v[i] = rest.cut(item)
			}
		}
	}
	return v
}

// canonical appends v in a form that is the same for equal values.
func canonical(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case bool:
		return strconv.AppendBool(b, v)
	case json.Number:
		return canonicalNumber(b, string(v))
	case string:
		return strconv.AppendQuote(b, v)
	case []any:
		b = append(b, '[')
		for _, item := range v {
			b = append(canonical(b, item), ',')
		}
		return append(b, ']')
	case map[string]any:
		b = append(b, '{')
		for _, key := range slices.Sorted(maps.Keys(v)) {
			b = append(strconv.AppendQuote(b, key), ':')
			b = append(canonical(b, v[key]), ',')
		}
		return append(b, '}')
	}
	panic(fmt.Sprintf("canonical: unexpected %T", v)) // the decoder makes no other types
}

// canonicalNumber appends sign, digits without zeros at either end, and the
// power of ten: 1.0, 1 and 10e-1 are all 1e0. It is exact for any number of
// digits.
func canonicalNumber(b []byte, s string) []byte {
	start := len(b)
	rest, negative := strings.CutPrefix(s, "-")
	if negative {
		b = append(b, '-')
	}
	mantissa, power := rest, int64(0)
	if i := strings.IndexAny(rest, "eE"); i >= 0 {
		p, err := strconv.ParseInt(rest[i+1:], 10, 64)
		if err != nil || p > math.MaxInt32 || p < math.MinInt32 {
			return append(b[:start], s...) // too large or small to compute with
		}
		mantissa, power = rest[:i], p
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimLeft(whole+fraction, "0")
	power -= int64(len(fraction))
	trimmed := strings.TrimRight(digits, "0")
	if trimmed == "" {
		return append(b[:start], '0') // -0 too
	}
	power += int64(len(digits) - len(trimmed))
	b = append(b, trimmed...)
	b = append(b, 'e')
	return strconv.AppendInt(b, power, 10)
}
