package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
)

// Defaulter is implemented, on the pointer, by types whose values are made while
// loading: map entries, list elements and the targets of nil pointers.
// SetDefaults sets all defaults, those of nested structs included. It is not
// called for values that the caller prefilled.
type Defaulter interface{ SetDefaults() }

// Checker is implemented by types that have rules. Check is called after
// decoding, at any depth, and reports each broken rule: path is relative to the
// value ("interval", `upstreams[0].url`, "" for the value itself), problem is
// what is wrong, value first, and fix, which may be empty, what to do. A report
// about a setting that could not be decoded is dropped: its mistake was already
// reported.
type Checker interface {
	Check(report func(path, problem, fix string))
}

// Other is a section of the shared file that belongs to another service. Its
// keys, variables and ${NAME}s are ignored.
type Other struct{}

// redacted replaces a secret wherever it could be seen.
const redacted = "[redacted]"

// Secret is text that never shows: fmt (with any verb), slog, JSON and YAML
// print [redacted], or nothing if it is empty. The text is behind a pointer so
// that even reflection over an unexported field, where fmt cannot call
// methods, prints an address only. The zero value is the empty secret.
type Secret struct {
	_    [0]func() // == would compare addresses, so it does not compile
	text *string
}

// NewSecret returns text as a Secret.
func NewSecret(text string) Secret { return Secret{text: &text} }

// Reveal returns the text. It must not reach a log, an error, a metric or a
// status page.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.Reveal() == "" }

// String returns [redacted], or "" for an empty secret.
func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return redacted
}

// Format prints String for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue returns String, for slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText returns String, for JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText accepts any text but [redacted], which is in a printed
// configuration in place of the secret.
func (s *Secret) UnmarshalText(text []byte) error {
	if string(text) == redacted {
		return errRedacted
	}
	*s = NewSecret(string(text))
	return nil
}

var errRedacted = errors.New(
	`"[redacted]" stands for a secret in a printed configuration; write the secret itself, or ${NAME}`)

// variable is text in a value of any shape that came from ${NAME} and may be a
// secret. Print shows [redacted]. JSON, in which such a value is sent, has the
// text.
type variable string

// MarshalYAML returns [redacted], for Print.
func (v variable) MarshalYAML() (any, error) {
	if v == "" {
		return "", nil
	}
	return redacted, nil
}

// Format prints [redacted] for every verb.
func (v variable) Format(f fmt.State, _ rune) {
	if v != "" {
		_, _ = io.WriteString(f, redacted)
	}
}

// LogValue is what slog sees.
func (v variable) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(v)) }

// Size is a number of bytes, 0 or more, written as a plain number or with one of
// the units KiB, MiB, GiB and TiB (powers of 1024). Units such as MB are refused
// because NATS, Docker and disks do not agree on their meaning.
type Size int64

// sizeUnits are the units from the largest to the smallest.
var sizeUnits = []struct {
	name  string
	shift uint
}{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}, {"B", 0}}

// String returns the size with the largest unit that needs no fraction.
func (s Size) String() string {
	for _, unit := range sizeUnits {
		if unit.shift > 0 && s > 0 && s&(1<<unit.shift-1) == 0 {
			return strconv.FormatInt(int64(s>>unit.shift), 10) + unit.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MarshalText returns String.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the forms that the type's comment describes.
func (s *Size) UnmarshalText(text []byte) error {
	digits, shift := string(text), uint(0)
	for _, unit := range sizeUnits {
		if rest, ok := strings.CutSuffix(digits, unit.name); ok {
			digits, shift = rest, unit.shift
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || n > (1<<63-1)>>shift {
		return fmt.Errorf("%s is not a size; %s", show(string(text)), kinds[size].fix)
	}
	*s = Size(n << shift)
	return nil
}
