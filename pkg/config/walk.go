package config

import (
	"cmp"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// decode sets v from n. Mistakes are reported; v keeps its value there.
func (l *loader) decode(v reflect.Value, n *node, path string) {
	k := kindOf(v.Type())
	switch {
	case k == other:
	case k == free:
		if value := l.free(n, path); value != nil {
			v.Set(reflect.ValueOf(value))
		} else {
			v.SetZero()
		}
	case k == pointer && n.null():
		v.SetZero()
	case k == pointer:
		target := targetOf(v)
		l.decode(target, n, path)
		v.Set(target.Addr())
	case n.null() && (k == section || k == table): // all its keys are commented out
	case n.null():
		l.mistake(n.at, path, "has no value", kinds[k].fix)
	case n.kind != shapeOf(k):
		fix := kinds[k].fix
		if n.at.line == 0 { // from a variable or a flag
			fix = cmp.Or(onOneLine[k], fix)
		}
		l.mistake(n.at, path, shapeNames[n.kind]+" where "+kinds[k].noun+" is wanted", fix)
	case k == section:
		l.section(v, n, path)
	case k == table:
		l.table(v, n, path)
	case k == list:
		l.list(v, n, path)
	default:
		l.scalar(v, k, n, path)
	}
}

// onOneLine is the fix of kinds that otherwise take several lines.
var onOneLine = map[kind]string{
	list:    "write [a, b], [] for none",
	table:   "write {key: value}, or name the key as well",
	section: "write {key: value}, or name the key as well",
}

var shapeNames = map[shape]string{scalar: "a single value", mapping: "a mapping", sequence: "a list"}

func shapeOf(k kind) shape {
	switch k {
	case section, table:
		return mapping
	case list:
		return sequence
	}
	return scalar
}

func (l *loader) section(v reflect.Value, n *node, path string) {
	for _, e := range n.entries {
		if f, ok := fieldNamed(v, e.key); ok {
			l.decode(f, e.value, join(path, e.key))
		} else {
			l.unknown(v.Type(), n, e.at, path, e.key)
		}
	}
}

// unknown reports a key that the struct type t, written as n, does not have.
func (l *loader) unknown(t reflect.Type, n *node, at place, path, key string) {
	names := fieldNames(t)
	fix := "known keys are " + strings.Join(names, ", ")
	there := homes(l.into, path, key)
	if where := misplaced(there); where != "" {
		fix = where
		l.tainted[join(there[0], key)] = true
	} else if near := nearest(key, names); near != "" {
		fix = fmt.Sprintf("did you mean %q?", near)
		if n.get(near) == nil {
			l.tainted[join(path, near)] = true // or it would also be reported as missing
		}
	}
	l.report(at, path, "unknown key "+strconv.Quote(clip(key)), fix)
}

func (l *loader) table(v reflect.Value, n *node, path string) {
	if len(n.entries) == 0 {
		return
	}
	m := reflect.MakeMap(v.Type())
	for old := v.MapRange(); old.Next(); {
		m.SetMapIndex(old.Key(), old.Value())
	}
	for _, e := range n.entries {
		item := entryOf(v, e.key)
		l.decode(item, e.value, join(path, e.key))
		m.SetMapIndex(reflect.ValueOf(e.key).Convert(v.Type().Key()), item)
	}
	v.Set(m)
}

func (l *loader) list(v reflect.Value, n *node, path string) {
	if len(n.items) == 0 && v.Len() == 0 {
		return // nil stays nil
	}
	items := reflect.MakeSlice(v.Type(), len(n.items), len(n.items))
	for i, item := range n.items {
		items.Index(i).Set(fresh(v.Type().Elem()))
		l.decode(items.Index(i), item, fmt.Sprintf("%s[%d]", path, i))
	}
	v.Set(items)
}

// free returns n as a value that JSON can hold: nil, bool, int, float64, string,
// []any or map[string]any, and variable for text from a variable.
func (l *loader) free(n *node, path string) any {
	switch n.kind {
	case mapping:
		m := make(map[string]any, len(n.entries))
		for _, e := range n.entries {
			m[e.key] = l.free(e.value, join(path, e.key))
		}
		return m
	case sequence:
		items := make([]any, len(n.items))
		for i, item := range n.items {
			items[i] = l.free(item, fmt.Sprintf("%s[%d]", path, i))
		}
		return items
	}
	value, _ := l.text(n, path)
	switch {
	case value == redacted:
		l.mistake(n.at, path, errRedacted.Error(), "")
		return nil
	case value == n.text:
		return l.freeScalar(n, path)
	case !strings.Contains(n.text, "${"):
		return value // $$ stands for $
	}
	return variable(value) // always text, whatever its form
}
