package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// check calls every Checker in v. at is the place of v or, if v is not written,
// of its nearest ancestor that is.
func (l *loader) check(v reflect.Value, n *node, at place, path string) {
	if n != nil {
		at = n.at
	}
	if l.tainted[path] {
		return
	}
	k := kindOf(v.Type())
	if k == pointer {
		if !v.IsNil() {
			l.check(v.Elem(), n, at, path)
		}
		return
	}
	if c, ok := v.Addr().Interface().(Checker); ok {
		c.Check(func(rel, problem, fix string) {
			if full, at, moot := l.locate(n, at, path, rel); !moot {
				l.report(at, full, problem, fix)
			}
		})
	}
	switch k {
	case section:
		for _, f := range fieldsOf(v.Type()) {
			l.check(v.Field(f.index), n.get(f.name), at, join(path, f.name))
		}
	case table:
		for _, key := range mapKeys(v, nil) {
			l.check(entryOf(v, key), n.get(key), at, join(path, key))
		}
	case list:
		for i := range v.Len() {
			l.check(v.Index(i), n.item(i), at, path+"["+strconv.Itoa(i)+"]")
		}
	}
}

// locate follows rel from n, which is at path. It returns the full path, the
// place of the last part of it that is written, and whether a mistake on the way
// was already reported.
func (l *loader) locate(n *node, at place, path, rel string) (full string, where place, moot bool) {
	for more := rel != ""; more; {
		if number, after, ok := strings.Cut(strings.TrimPrefix(rel, "["), "]"); ok && rel[0] == '[' {
			i, err := strconv.Atoi(number)
			if err != nil {
				i = -1
			}
			path, n, rel = fmt.Sprintf("%s[%s]", path, number), n.item(i), strings.TrimPrefix(after, ".")
			more = rel != ""
		} else {
			var key string
			key, rel, more = cut(rel, func(key string) bool { return n.get(key) != nil })
			path, n = join(path, key), n.get(key)
		}
		if n != nil {
			at = n.at
		}
		moot = moot || l.tainted[path]
	}
	return path, at, moot
}
