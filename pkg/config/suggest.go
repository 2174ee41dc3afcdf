package config

import "strings"

// nearest returns the candidate that word probably means, or "".
func nearest(word string, candidates []string) string {
	plain := func(s string) []rune {
		return []rune(strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s)))
	}
	w := plain(word)
	if len(w) < 2 || len(w) > 100 {
		return ""
	}
	best, found := min(3, max(1, len(w)/3))+1, ""
	for _, c := range candidates {
		if d := distance(w, plain(c)); d < best {
			best, found = d, c
		}
	}
	return found
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b.
func distance(a, b []rune) int {
	var before, last, row []int
	for j := range len(b) + 1 {
		last = append(last, j)
	}
	for i := range a {
		row = []int{i + 1}
		for j := range b {
			d := last[j]
			if a[i] != b[j] {
				d = 1 + min(last[j], last[j+1], row[j])
				if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
					d = min(d, before[j-1]+1)
				}
			}
			row = append(row, d)
		}
		before, last = last, row
	}
	return last[len(b)]
}
