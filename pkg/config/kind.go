package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// kind is what a Go type accepts from a configuration. Decoding, overrides and
// the reference all use kindOf, so that they cannot disagree.
type kind int

const (
	text kind = iota
	boolean
	integer
	unsigned
	number
	duration
	size
	secret
	custom // implements encoding.TextUnmarshaler
	free
	list
	table
	section
	pointer
	other
)

// kinds has a kind's name in the reference, its name in messages, and how to
// write a value.
var kinds = [...]struct{ name, noun, fix string }{
	text:     {"string", "text", `write a single value, "" for none`},
	boolean:  {"bool", "true or false", "write true or false"},
	integer:  {"integer", "a whole number", "write digits only"},
	unsigned: {"integer", "a whole number", "write digits only"},
	number:   {"number", "a number", "write one such as 0.5"},
	duration: {"duration", "a duration", "write one such as 250ms, 5s or 1m30s"},
	size:     {"size", "a size", "write bytes as a whole number, or with KiB, MiB, GiB or TiB"},
	secret:   {"secret", "text", `write a single value such as ${NAME}, "" for none`},
	custom:   {"string", "text", `write a single value, "" for none`},
	free:     {"any", "any value", ""},
	list:     {"list", "a list", `write [a, b], or one "- item" a line, [] for none`},
	table:    {"map", "a mapping", `write "key: value" lines beneath it`},
	section:  {"section", "a mapping", `write "key: value" lines beneath it`},
	pointer:  {},
	other:    {"section", "", ""},
}

func kindOf(t reflect.Type) kind {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return duration
	case reflect.TypeFor[Size]():
		return size
	case reflect.TypeFor[Secret]():
		return secret
	case reflect.TypeFor[Other]():
		return other
	case reflect.TypeFor[any]():
		return free
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return custom
	}
	switch t.Kind() {
	case reflect.String:
		return text
	case reflect.Bool:
		return boolean
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return integer
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return unsigned
	case reflect.Float32, reflect.Float64:
		return number
	case reflect.Slice:
		return list
	case reflect.Map:
		if t.Key().Kind() == reflect.String {
			return table
		}
	case reflect.Struct:
		return section
	case reflect.Pointer:
		return pointer
	}
	panic(fmt.Sprintf("config: a %v cannot be a setting", t))
}

// field is one setting of a struct.
type field struct {
	name, doc string
	index     int
	typ       reflect.Type
}

func fieldsOf(t reflect.Type) []field {
	var all []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case name == "":
			panic(fmt.Sprintf(`config: %v.%s has no yaml:"name" tag`, t, f.Name))
		default:
			all = append(all, field{name, f.Tag.Get("doc"), i, f.Type})
		}
	}
	return all
}

func fieldNames(t reflect.Type) []string {
	var names []string
	for _, f := range fieldsOf(t) {
		names = append(names, f.name)
	}
	return names
}

// fieldNamed returns the named field of the struct v, and whether it has one.
func fieldNamed(v reflect.Value, name string) (reflect.Value, bool) {
	for _, f := range fieldsOf(v.Type()) {
		if f.name == name {
			return v.Field(f.index), true
		}
	}
	return reflect.Value{}, false
}

// fresh returns a new, addressable value of type t with its defaults.
func fresh(t reflect.Type) reflect.Value {
	v := reflect.New(t)
	if d, ok := v.Interface().(Defaulter); ok {
		d.SetDefaults()
	}
	return v.Elem()
}

// entryOf returns an addressable copy of the map v's entry at key, or a fresh
// one, so that decoding never writes into a map that the caller may share.
func entryOf(v reflect.Value, key string) reflect.Value {
	entry := fresh(v.Type().Elem())
	if old := mapIndex(v, key); old.IsValid() {
		entry.Set(old)
	}
	return entry
}

func mapIndex(v reflect.Value, key string) reflect.Value {
	return v.MapIndex(reflect.ValueOf(key).Convert(v.Type().Key()))
}

// targetOf returns an addressable copy of the value that the pointer v points to,
// or a fresh one.
func targetOf(v reflect.Value) reflect.Value {
	target := fresh(v.Type().Elem())
	if !v.IsNil() {
		target.Set(v.Elem())
	}
	return target
}

// rootOf returns the struct that into points to.
func rootOf(into any) reflect.Value {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.IsNil() || kindOf(v.Type().Elem()) != section {
		panic(fmt.Sprintf("config: want a pointer to a struct, have %T", into))
	}
	return v.Elem()
}
