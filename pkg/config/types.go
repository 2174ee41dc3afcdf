package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
)

// Defaulter is implemented, on the pointer, by types whose values come into
// being while loading: map entries, list elements and what a nil pointer
// points to. SetDefaults sets all of them, nested structs included. It is not
// called for what the caller prefilled.
type Defaulter interface{ SetDefaults() }

// Checker is implemented by types that have rules of their own. Check is
// called after decoding, at any depth, and reports each broken rule: path is
// relative to the value ("interval", `upstreams[0].url`, "" for the value
// itself), problem says what is wrong, value first, and fix, which may be
// empty, what to do. A report about a setting that could not be decoded is
// dropped: that mistake is reported already.
type Checker interface {
	Check(report func(path, problem, fix string))
}

// Other is a section of the shared file that belongs to another service: its
// keys, its variables and its ${NAME}s are not looked at.
type Other struct{}

// redacted stands for a secret wherever it could be seen.
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

// Reveal returns the text itself. It must not reach a log, an error, a metric
// or a status page.
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

// LogValue is what slog sees.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is what JSON and YAML see.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes any text but [redacted], which is what a printed
// configuration holds in place of the secret.
func (s *Secret) UnmarshalText(text []byte) error {
	if string(text) == redacted {
		return errRedacted
	}
	*s = NewSecret(string(text))
	return nil
}

var errRedacted = errors.New(`"[redacted]" stands for a secret in a printed configuration; write the secret itself, or ${NAME}`)

// variable is text inside a value of any shape that came from ${NAME}, where
// secrets come from: Print shows [redacted], while JSON, which such a value is
// sent as, has the text.
type variable string

// MarshalYAML is what Print sees.
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

// Size is a number of bytes, 0 or more, written as a plain number or with one
// of the units KiB, MiB, GiB and TiB (powers of 1024). Units such as MB are
// refused because NATS, Docker and disks do not agree on what they mean.
type Size int64

// sizeUnits are from the largest to the smallest.
var sizeUnits = []struct {
	name  string
	shift uint
}{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}, {"B", 0}}

// String writes the size with the largest unit that needs no fraction.
func (s Size) String() string {
	for _, unit := range sizeUnits {
		if unit.shift > 0 && s > 0 && s&(1<<unit.shift-1) == 0 {
			return strconv.FormatInt(int64(s>>unit.shift), 10) + unit.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MarshalText writes String.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what the type's comment describes.
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
