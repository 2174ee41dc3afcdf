package config

import "strings"

// homes returns the paths above or below path where the key is known: a key that
// is written a level too high or too deep is more often misplaced than wrong.
// path has the form of join, and so have the homes, with <name> for a map's key
// that is not in path.
func homes(into any, path, key string) (found []string) {
	here := splitPath(path)
	for _, f := range Describe(into) {
		there := splitPath(f.Path)
		last := len(there) - 1
		if there[last] != key || strings.Contains(f.Path, "[") || !related(here, there[:last]) {
			continue
		}
		home := ""
		for i, part := range there[:last] {
			if i < len(here) {
				part = here[i]
			}
			home = join(home, part)
		}
		found = append(found, home)
	}
	return found
}

// anyName is the place of a map's key in a Field's path.
const anyName = "<name>"

// related reports whether one of the two is below the other.
func related(path, pattern []string) bool {
	for i := range min(len(path), len(pattern)) {
		if path[i] != pattern[i] && pattern[i] != anyName {
			return false
		}
	}
	return len(path) != len(pattern)
}

func splitPath(path string) (keys []string) {
	for more := path != ""; more; {
		var key string
		key, path, more = cut(path, func(string) bool { return false })
		keys = append(keys, key)
	}
	return keys
}

// misplaced returns the problem of a key that is known at other places.
func misplaced(homes []string) string {
	switch {
	case len(homes) == 1 && homes[0] == "":
		return "it is a section of its own; write it without indentation"
	case len(homes) > 0 && len(homes) < 3:
		return "it belongs into " + strings.Join(homes, " or ")
	}
	return ""
}
