package jq

import (
	"cmp"
	"context"
	"errors"
	"regexp"
	"strings"

	"github.com/itchyny/gojq"
)

// The detail of a freshness record is for every client that sees the poll, of
// which it may see only what select leaves, or a single key. So no failure says
// there what an answer held; the status and the log, which are the operator's, do.

// discreet is an error in words for everybody; whole is for the operator.
type RedactedError struct{ Public, Full string }

func (e *RedactedError) Error() string { return e.Public }

// wholeText is an error with what it keeps from others.
func FullText(err error) string {
	d, ok := errors.AsType[*RedactedError](err)
	if !ok {
		return err.Error()
	}
	return strings.Replace(err.Error(), d.Public, d.Full, 1)
}

// failed is an expression's error while it ran.
func (e *Expression) failed(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return &RedactedError{e.Name + ": " + publicWords(err), e.Name + ": " + FullText(err)}
}

// jqTypes are the names of types by which gojq's messages introduce a value:
// "string (\"abc ...\")".
const jqTypes = `(null|boolean|number|string|array|object)`

var (
	jqApplied = regexp.MustCompile(`^([a-z@][a-z0-9@_]*)(?:\(.*\))? cannot be applied to`)
	jqHead    = regexp.MustCompile(`^(?:expected "start" and "end" for slicing but got|[a-zA-Z@ ]*[a-zA-Z])`)
	jqFirst   = regexp.MustCompile(`^: ` + jqTypes + `\b`)
	jqPair    = regexp.MustCompile(`^cannot (add|subtract|multiply|divide|modulo)\b`)
	jqLast    = regexp.MustCompile(`( and| by:) ` + jqTypes + `(?: \((?s:.*))?$`)
	jqJSON    = map[byte]string{'"': "string", '{': "object", '[': "array", 't': "boolean", 'f': "boolean", 'n': "null"}
)

// jqWords is what an expression's error says without the values that it quotes:
// their types stay. What error and halt_error are given are the expression's own
// words. gojq's messages begin with words of its own; only those are taken over.
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

// wholeDetail is what a detail keeps back.
type Detail struct{ Public, Full string }

// of is a detail for the operator.
func (w Detail) For(detail string) string {
	if w.Full != "" && w.Public == detail {
		return w.Full
	}
	return detail
}
