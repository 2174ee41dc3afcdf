package topic

import (
	"fmt"
	"strings"
)

// The bounds of a topic or pattern keep every subject far below the 4,096 bytes
// of a NATS control line, beyond which a server closes the connection.
const (
	MaxLen    = 512 // bytes
	MaxTokens = 32
)

// Error is what is wrong with a topic, pattern or name.
type Error struct {
	What    string // "topic", "pattern", "name"
	Value   string
	Problem string
}

func (e *Error) Error() string {
	v := e.Value
	if len(v) > 80 {
		v = v[:80] + "…"
	}
	return fmt.Sprintf("%s %q: %s", e.What, v, e.Problem)
}

// Check returns nil when s is a topic that events can be published on: at
// least two valid tokens, none reserved and no wildcard.
func Check(s string) error {
	return check("topic", s, 2, false)
}

// CheckName returns nil when s can name a poll inside its source: one or more
// valid tokens joined by dots.
func CheckName(s string) error {
	return check("name", s, 1, false)
}

// CheckToken returns nil when s can name a source: one valid token.
func CheckToken(s string) error {
	if strings.Contains(s, ".") {
		return &Error{"name", s, "it must be one token, without a dot"}
	}
	return check("name", s, 1, false)
}

// CheckPattern returns nil when s can be subscribed to: valid tokens, of which
// any may be "*" (one token) and the last may be ">" (one or more tokens).
func CheckPattern(s string) error {
	return check("pattern", s, 1, true)
}

func check(what, s string, minTokens int, wild bool) error {
	bad := func(format string, args ...any) error {
		return &Error{what, s, fmt.Sprintf(format, args...)}
	}
	if s == "" {
		return bad("it is empty")
	}
	if len(s) > MaxLen {
		return bad("it has %d bytes; at most %d are allowed", len(s), MaxLen)
	}
	n := strings.Count(s, ".") + 1
	if n > MaxTokens {
		return bad("it has %d tokens; at most %d are allowed", n, MaxTokens)
	}
	i := 0
	for tok := range strings.SplitSeq(s, ".") {
		i++
		switch {
		case tok == "":
			return bad("token %d is empty", i)
		case wild && tok == "*":
			continue
		case wild && tok == ">":
			if i != n {
				return bad(`">" may only stand at the end`)
			}
			continue
		case tok == "*" || tok == ">":
			return bad("wildcard %q is not allowed here", tok)
		case tok[0] == '_':
			return bad(`token %q is reserved: it starts with "_"`, tok)
		}
		if at := badByte(tok); at >= 0 {
			return bad("token %q holds %q; allowed are A-Z a-z 0-9 _ - and %%XX", tok, tok[at])
		}
	}
	if n < minTokens {
		return bad("it has %d token; <source>.<poll> needs at least %d", n, minTokens)
	}
	return nil
}

// badByte returns the index of the first byte a token may not hold, or -1.
func badByte(tok string) int {
	for i := 0; i < len(tok); i++ {
		switch c := tok[i]; {
		case tokenByte(c):
		case c == '%':
			if i+2 >= len(tok) || !upperHex(tok[i+1]) || !upperHex(tok[i+2]) {
				return i
			}
			i += 2
		default:
			return i
		}
	}
	return -1
}

func tokenByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}

func upperHex(c byte) bool { return '0' <= c && c <= '9' || 'A' <= c && c <= 'F' }

// IsPattern reports whether s holds a wildcard token.
func IsPattern(s string) bool {
	for tok := range strings.SplitSeq(s, ".") {
		if tok == "*" || tok == ">" {
			return true
		}
	}
	return false
}

// Source returns the first token of a topic or poll: the source it belongs to.
func Source(s string) string {
	src, _, _ := strings.Cut(s, ".")
	return src
}

const (
	upperhex = "0123456789ABCDEF"
	emptyKey = "%2D"
)

// EscapeKey makes one token of a key: every byte that a token may not hold, every
// "%", and a leading "_" become %XX. The empty key becomes "%2D", which no other
// key can become, because "-" needs no escape. UnescapeKey is its inverse. The
// caller must refuse keys whose topic would be longer than MaxLen (Check does).
func EscapeKey(key string) string {
	if key == "" {
		return emptyKey
	}
	var b strings.Builder
	for i := range len(key) {
		c := key[i]
		if tokenByte(c) && (i > 0 || c != '_') {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(upperhex[c>>4])
		b.WriteByte(upperhex[c&15])
	}
	return b.String()
}

// UnescapeKey is the inverse of EscapeKey. ok is false for a token that
// EscapeKey cannot have made.
func UnescapeKey(token string) (key string, ok bool) {
	if token == emptyKey {
		return "", true
	}
	if token == "" || badByte(token) >= 0 {
		return "", false
	}
	b := make([]byte, 0, len(token))
	for i := 0; i < len(token); i++ {
		if token[i] != '%' {
			b = append(b, token[i])
			continue
		}
		b = append(b, unhex(token[i+1])<<4|unhex(token[i+2]))
		i += 2
	}
	return string(b), true
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c - 'A' + 10
}
