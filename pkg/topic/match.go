package topic

import (
	"slices"
	"strings"
)

// Match reports whether a valid pattern matches a valid topic, by the rules of
// NATS subjects: "*" is exactly one token, ">" is one or more at the end.
func Match(pattern, topic string) bool {
	for {
		p, prest, pmore := strings.Cut(pattern, ".")
		if p == ">" {
			return true
		}
		t, trest, tmore := strings.Cut(topic, ".")
		if p != "*" && p != t {
			return false
		}
		if !pmore || !tmore {
			return pmore == tmore
		}
		pattern, topic = prest, trest
	}
}

// Overlap reports whether some topic exists that both patterns match.
func Overlap(a, b string) bool {
	for {
		x, xrest, xmore := strings.Cut(a, ".")
		y, yrest, ymore := strings.Cut(b, ".")
		if x == ">" || y == ">" {
			return true
		}
		if x != "*" && y != "*" && x != y {
			return false
		}
		if !xmore || !ymore {
			return xmore == ymore
		}
		a, b = xrest, yrest
	}
}

// CoversPoll reports whether a pattern can match the topic of the poll or one of
// its keyed topics. A subscriber of the pattern then needs the poll's freshness.
func CoversPoll(pattern, poll string) bool {
	return Match(pattern, poll) || Overlap(pattern, poll+".*")
}

// CoversSource reports whether a pattern can match a topic of the source.
func CoversSource(pattern, source string) bool {
	p, _, _ := strings.Cut(pattern, ".")
	return p == source || p == "*" || p == ">"
}

// Canonical returns the smallest set that matches the same topics, sorted and
// without repetition: "a.b" is dropped when "a.>" is present.
func Canonical(patterns []string) []string {
	var out []string
	for i, p := range patterns {
		keep := true
		for j, q := range patterns {
			if i == j {
				continue
			}
			if p == q && j < i || p != q && contains(q, p) {
				keep = false
				break
			}
		}
		if keep {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}

// contains reports whether every topic that q matches is matched by p.
func contains(p, q string) bool {
	for {
		x, xrest, xmore := strings.Cut(p, ".")
		if x == ">" {
			return true
		}
		y, yrest, ymore := strings.Cut(q, ".")
		if y == ">" || y == "*" && x != "*" || x != "*" && x != y {
			return false
		}
		if !xmore || !ymore {
			return xmore == ymore
		}
		p, q = xrest, yrest
	}
}
