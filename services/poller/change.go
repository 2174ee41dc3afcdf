package poller

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// digest stands for a value when two are compared: equal digests are equal
// values. Key order, white space and the way a number is written do not
// matter; what the ignored paths lead to does not either.
type digest [sha256.Size]byte

// path leads to parts of a value: keys of objects and positions in arrays, "*"
// for any.
type path []string

// parsePath reads keys joined by dots.
func parsePath(s string) (path, error) {
	p := path(strings.Split(s, "."))
	if slices.Contains(p, "") {
		return nil, fmt.Errorf("path %q has an empty part", s)
	}
	return p, nil
}

// digestOf returns the digest of valid JSON.
func digestOf(value []byte, ignore []path) (digest, error) {
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return digest{}, fmt.Errorf("read value: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return digest{}, errors.New("read value: more than one")
	}
	for _, p := range ignore {
		v = p.cut(v)
	}
	h := sha256.New()
	buf := canonical(make([]byte, 0, len(value)), v)
	h.Write(buf)
	return digest(h.Sum(nil)), nil
}

// cut removes what the path leads to and returns what is left. In an array the
// place stays, so that other positions keep their meaning.
func (p path) cut(v any) any {
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

// canonical appends the one way in which a value is written.
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
			return append(b[:start], s...) // no number that anybody computes with
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
