package config

import (
	"reflect"
	"strings"
)

// Differ lists the settings in which two configurations of the same type
// differ, by path and in the order of the struct. A map or a list is one
// setting. It returns no values, which may be secret.
func Differ(a, b any) []string {
	return differ(reflect.Indirect(reflect.ValueOf(a)), reflect.Indirect(reflect.ValueOf(b)), "", nil)
}

func differ(a, b reflect.Value, path string, found []string) []string {
	leaf := true
	if a.Kind() == reflect.Struct {
		for i := range a.NumField() {
			name, _, _ := strings.Cut(a.Type().Field(i).Tag.Get("yaml"), ",")
			if name == "" || name == "-" {
				continue
			}
			leaf = false
			if path != "" {
				name = path + "." + name
			}
			found = differ(a.Field(i), b.Field(i), name, found)
		}
	}
	if leaf && !reflect.DeepEqual(a.Interface(), b.Interface()) {
		found = append(found, path)
	}
	return found
}
