package config

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// text returns the text of the scalar n with its variables replaced. ok is false
// if there was a mistake.
func (l *loader) text(n *node, path string) (string, bool) {
	value, ok := n.text, true
	if !n.literal {
		value = expand(n.text, l.env, func(problem, fix string) {
			ok = false
			l.mistake(n.at, path, problem, fix)
		})
	}
	if !utf8.ValidString(value) { // the value is from the environment or a flag
		ok = false
		l.mistake(n.at, path, "is not UTF-8", "encode the value as UTF-8")
	}
	return value, ok
}

// scalar sets v from the text of n. Messages show the text as written, which is
// ${NAME} if the value is the environment's.
func (l *loader) scalar(v reflect.Value, k kind, n *node, path string) {
	value, ok := l.text(n, path)
	if !ok {
		return
	}
	problem, fix := assign(v, k, value)
	switch {
	case problem == "":
	case k == secret:
		l.mistake(n.at, path, problem, fix)
	case k == custom && value == n.text:
		l.mistake(n.at, path, problem, fix) // problem holds the value
	case k == custom:
		l.mistake(n.at, path, "the value of "+show(n.text)+" is not valid here", fix)
	default:
		l.mistake(n.at, path, show(n.text)+" "+problem, fix)
	}
}

// assign parses value into v. It returns what is wrong, as the rest of a
// sentence that starts with the value, and what to do.
func assign(v reflect.Value, k kind, value string) (problem, fix string) {
	wrong := "is not " + kinds[k].noun
	switch k {
	case text:
		v.SetString(value)
		return "", ""
	case boolean:
		if strings.EqualFold(value, "true") || strings.EqualFold(value, "false") {
			v.SetBool(strings.EqualFold(value, "true"))
			return "", ""
		}
	case integer:
		bits := v.Type().Bits()
		n, err := strconv.ParseInt(value, 10, bits)
		if err == nil {
			v.SetInt(n)
			return "", ""
		}
		if digits.MatchString(value) {
			return "is out of range", fmt.Sprintf("use a number from %d to %d", int64(-1)<<(bits-1), int64(1)<<(bits-1)-1)
		}
	case unsigned:
		bits := v.Type().Bits()
		n, err := strconv.ParseUint(value, 10, bits)
		if err == nil {
			v.SetUint(n)
			return "", ""
		}
		if digits.MatchString(value) {
			return "is out of range", fmt.Sprintf("use a number from 0 to %d", uint64(math.MaxUint64)>>(64-bits))
		}
	case number:
		n, err := strconv.ParseFloat(value, v.Type().Bits())
		if err == nil && decimal.MatchString(value) {
			v.SetFloat(n)
			return "", ""
		}
	case duration:
		d, err := time.ParseDuration(value)
		if decimal.MatchString(value) { // also "0", which ParseDuration accepts
			return "has no unit", kinds[k].fix
		}
		if err == nil {
			v.SetInt(int64(d))
			return "", ""
		}
	case size:
		if v.Addr().Interface().(*Size).UnmarshalText([]byte(value)) == nil {
			return "", ""
		}
	case secret, custom:
		if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(value)); err != nil {
			return err.Error(), ""
		}
		return "", ""
	}
	return wrong, kinds[k].fix
}

var (
	digits  = regexp.MustCompile(`^[-+]?[0-9]+$`)
	decimal = regexp.MustCompile(`^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$`)
	// jsonNumber matches a number of JSON and YAML alike.
	jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$`)
)

// freeScalar returns n with its YAML type. A number that JSON would write
// differently, such as 0x1b4 or 007, may be text without its quotes: it is a
// mistake.
func (l *loader) freeScalar(n *node, path string) any {
	switch n.tag {
	case "!!null":
		return nil
	case "!!bool":
		return strings.EqualFold(n.text, "true")
	case "!!int", "!!float":
		if !jsonNumber.MatchString(n.text) {
			break
		}
		if whole, err := strconv.Atoi(n.text); err == nil {
			return whole
		}
		if f, err := strconv.ParseFloat(n.text, 64); err == nil && !digits.MatchString(n.text) {
			return f
		}
	default:
		return n.text
	}
	l.mistake(n.at, path, show(n.text)+" is a number to YAML that JSON cannot hold exactly",
		"quote it to send it as text, or write it in decimal")
	return nil
}
