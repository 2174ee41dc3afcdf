package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxLines bounds the lines of Error's text.
const maxLines = 50

// Error is all mistakes of a configuration, those of the file first, by line.
type Error struct{ Problems []Problem }

// Problem is one mistake.
type Problem struct {
	Place   string // file:line:col, POLLCAST_NAME, "-set path" or "" if it is not written
	Path    string // the setting, such as gateway.listen; "" if it is about the whole
	Problem string // what is wrong
	Fix     string // what to do; may be empty

	at place
}

// String returns one line: "place: path: problem; fix".
func (p Problem) String() string {
	var b strings.Builder
	for _, part := range []string{p.Place, p.Path} {
		if part != "" {
			b.WriteString(part + ": ")
		}
	}
	b.WriteString(p.Problem)
	if p.Fix != "" {
		b.WriteString("; " + p.Fix)
	}
	return oneLine(b.String())
}

// Error returns one line per problem, at most 50.
func (e *Error) Error() string {
	var lines []string
	for _, p := range e.Problems[:min(len(e.Problems), maxLines)] {
		lines = append(lines, p.String())
	}
	if more := len(e.Problems) - maxLines; more > 0 {
		lines = append(lines, fmt.Sprintf("… and %d more", more))
	}
	return strings.Join(lines, "\n")
}

func newError(problems []Problem) *Error {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(b.at.rank(), a.at.rank()),
			cmp.Compare(a.at.line, b.at.line),
			cmp.Compare(a.at.col, b.at.col))
	})
	return &Error{problems}
}

// place is where something is written: in the named file, variable or flag. line
// and col count from 1; 0: they mean nothing.
type place struct {
	name      string
	line, col int
}

func (p place) String() string {
	switch {
	case p.line == 0:
		return p.name
	case p.col == 0:
		return fmt.Sprintf("%s:%d", p.name, p.line)
	}
	return fmt.Sprintf("%s:%d:%d", p.name, p.line, p.col)
}

// rank orders places with a line before places without one.
func (p place) rank() int { return min(p.line, 1) }

// show prepares a value for a message: clipped, and without quotes if it is one
// word.
func show(value string) string {
	odd := func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) || r == '"' }
	value = clip(value)
	if value == "" || !utf8.ValidString(value) || strings.IndexFunc(value, odd) >= 0 {
		return strconv.Quote(value)
	}
	return value
}

func clip(s string) string {
	const most = 60
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most]) + "…"
}

func oneLine(s string) string {
	return strings.NewReplacer("\r", " ", "\n", " ").Replace(s)
}
