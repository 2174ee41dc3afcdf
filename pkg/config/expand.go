package config

import (
	"regexp"
	"strings"
)

var reference = regexp.MustCompile(`^\{([A-Za-z_][A-Za-z0-9_]*)(:-[^}]*)?\}`)

// expand replaces ${NAME} and ${NAME:-default} by the value in env, and $$ by $.
// The default replaces a variable that is unset or empty. complain receives only
// names: the text around them may be a secret.
func expand(text string, env map[string]string, complain func(problem, fix string)) string {
	var out strings.Builder
	for {
		before, after, found := strings.Cut(text, "$")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		text = after
		if rest, ok := strings.CutPrefix(text, "$"); ok {
			out.WriteByte('$')
			text = rest
			continue
		}
		if !strings.HasPrefix(text, "{") {
			out.WriteByte('$')
			continue
		}
		m := reference.FindStringSubmatch(text)
		if m == nil {
			complain("holds ${ without a variable", "write ${NAME} or ${NAME:-default}, or $${ for the characters themselves")
			return ""
		}
		text = text[len(m[0]):]
		value, set := env[m[1]]
		fallback, hasFallback := strings.CutPrefix(m[2], ":-")
		switch {
		case value == "" && hasFallback:
			out.WriteString(fallback)
		case set:
			out.WriteString(value)
		default:
			complain("the environment variable "+m[1]+" is not set", "set it, or write ${"+m[1]+":-default}")
		}
	}
}

// escape is the inverse of expand: it returns text that expands to s.
func escape(s string) string {
	var out strings.Builder
	for i := range len(s) {
		if s[i] == '$' && i+1 < len(s) && (s[i+1] == '$' || s[i+1] == '{') {
			out.WriteByte('$')
		}
		out.WriteByte(s[i])
	}
	return out.String()
}
