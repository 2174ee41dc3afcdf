package jq

import (
	"cmp"
	"context"
	"errors"
	"regexp"
	"strings"

	"github.com/itchyny/gojq"
)

// RedactedError is an error with two texts. Public is for every client that sees the
// poll: it stands in the freshness record and quotes no value, because a client may see
// only what select leaves, or a single key. Full is for the operator: it stands in the
// status and the log.
type RedactedError struct{ Public, Full string }

func (e *RedactedError) Error() string { return e.Public }

// FullText returns the text of err for the operator.
func FullText(err error) string {
	d, ok := errors.AsType[*RedactedError](err)
	if !ok {
		return err.Error()
	}
	return strings.Replace(err.Error(), d.Public, d.Full, 1)
}

// failed returns the error of an expression that ran, with both texts.
func (e *Expression) failed(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return &RedactedError{e.Name + ": " + publicWords(err), e.Name + ": " + FullText(err)}
}

// publicWords needs regular expressions: of the errors of an expression that runs, gojq
// (v0.12) exports only ValueError and HaltError. All others are unexported types without a
// method but Error, so the type of the value at fault is only in the message.

// jqTypes are the names of types that gojq's messages put before a value, such as
// string ("abc ...").
const jqTypes = `(null|boolean|number|string|array|object)`

var (
	jqApplied = regexp.MustCompile(`^([a-z@][a-z0-9@_]*)(?:\(.*\))? cannot be applied to`)
	jqHead    = regexp.MustCompile(`^(?:expected "start" and "end" for slicing but got|[a-zA-Z@ ]*[a-zA-Z])`)
	jqFirst   = regexp.MustCompile(`^: ` + jqTypes + `\b`)
	jqPair    = regexp.MustCompile(`^cannot (add|subtract|multiply|divide|modulo)\b`)
	jqLast    = regexp.MustCompile(`( and| by:) ` + jqTypes + `(?: \((?s:.*))?$`)
	jqJSON    = map[byte]string{'"': "string", '{': "object", '[': "array", 't': "boolean", 'f': "boolean", 'n': "null"}
)

// publicWords returns the text of an expression's error without the values that it quotes;
// their types stay. A ValueError, from error or halt_error, holds what the operator wrote
// into the expression and stays whole. Of other messages only gojq's own first words stay.
func publicWords(err error) string {
	if d, ok := errors.AsType[*RedactedError](err); ok {
		return d.Public
	}
	if own, ok := errors.AsType[gojq.ValueError](err); ok {
		return own.Error()
	}
	text := err.Error()
	if m := jqApplied.FindStringSubmatch(text); m != nil {
		_, to, _ := strings.Cut(text, " cannot be applied to")
		what := "number"
		if t := jqFirst.FindStringSubmatch(to); t != nil {
			what = t[1]
		} else if to = strings.TrimPrefix(to, " "); to != "" && jqJSON[to[0]] != "" {
			what = jqJSON[to[0]]
		}
		return m[1] + " cannot be applied to this " + what
	}
	words := jqHead.FindString(text)
	if first := jqFirst.FindString(text[len(words):]); first != "" {
		words += first
	} else if !strings.HasPrefix(text[len(words):], " (") {
		return cmp.Or(words, "it fails")
	}
	if last := jqLast.FindStringSubmatch(text); last != nil && jqPair.MatchString(text) {
		words += last[1] + " " + last[2]
	}
	return words
}

// Detail is the detail of a failure: the public text, and the full one; an empty Full has
// nothing to add.
type Detail struct{ Public, Full string }

// For returns the text for the operator in the place of detail.
func (w Detail) For(detail string) string {
	if w.Full != "" && w.Public == detail {
		return w.Full
	}
	return detail
}
