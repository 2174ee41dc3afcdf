package config

import (
	"strconv"
	"strings"
)

// join adds a key to a path. It quotes a key that could be taken for several.
func join(path, key string) string {
	if key == "" || strings.ContainsAny(key, `.[]="`) || show(key) != key {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// cut removes the first key of a path: a quoted one, else the longest for which
// has returns true, else the text before the next dot or bracket.
func cut(path string, has func(key string) bool) (key, rest string, more bool) {
	if quoted, err := strconv.QuotedPrefix(path); err == nil && quoted[0] == '"' {
		key, _ = strconv.Unquote(quoted)
		rest = path[len(quoted):]
	} else {
		end := -1
		for i := range len(path) + 1 {
			stop := i == len(path) || path[i] == '.' || path[i] == '[' && i > 0
			if stop && (end < 0 || has(path[:i])) {
				end = i
			}
		}
		key, rest = path[:end], path[end:]
	}
	if after, ok := strings.CutPrefix(rest, "."); ok {
		return key, after, true
	}
	return key, rest, rest != ""
}
