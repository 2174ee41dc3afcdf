package config

import (
	"encoding/json"
	"reflect"
)

const (
	variablePattern = `\$\{.+\}` // a value that comes from the environment
	durationPattern = `^[-+]?(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$|` + variablePattern
	sizePattern     = `^[0-9]+([KMGT]iB|B)?$|` + variablePattern
)

// JSONSchema returns the JSON Schema (draft 2020-12) of the file that the
// struct that into points to is loaded from, for editors. It accepts ${NAME}
// wherever Load does.
func JSONSchema(into any) []byte {
	root := schema(rootOf(into))
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Pollcast configuration"
	out, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic("config: make JSON Schema: " + err.Error()) // a default is not valid JSON
	}
	return append(out, '\n')
}

func schema(v reflect.Value) map[string]any {
	t := v.Type()
	switch k := kindOf(t); k {
	case boolean:
		return map[string]any{"type": []string{"boolean", "string"}, "pattern": variablePattern}
	case integer, unsigned:
		s := map[string]any{"type": []string{"integer", "string"}, "pattern": variablePattern}
		bits := t.Bits()
		if k == unsigned {
			s["minimum"] = 0
		}
		switch { // the loader checks 64 bits: JSON numbers are not that exact
		case bits < 64 && k == unsigned:
			s["maximum"] = uint64(1)<<bits - 1
		case bits < 64:
			s["minimum"], s["maximum"] = int64(-1)<<(bits-1), int64(1)<<(bits-1)-1
		}
		return s
	case number:
		return map[string]any{"type": []string{"number", "string"}, "pattern": variablePattern}
	case duration:
		return map[string]any{"type": "string", "pattern": durationPattern}
	case size:
		return map[string]any{"type": []string{"integer", "string"}, "minimum": 0, "pattern": sizePattern}
	case text, secret, custom:
		return map[string]any{"type": []string{"string", "number", "boolean"}}
	case pointer:
		return map[string]any{"anyOf": []any{schema(targetOf(v)), map[string]any{"type": "null"}}}
	case list:
		return map[string]any{"type": "array", "items": schema(fresh(t.Elem()))}
	case table:
		return map[string]any{"type": []string{"object", "null"}, "additionalProperties": schema(fresh(t.Elem()))}
	case section:
		properties := map[string]any{}
		for _, f := range fieldsOf(t) {
			properties[f.name] = property(v.Field(f.index), f.doc)
		}
		return map[string]any{"type": []string{"object", "null"}, "properties": properties, "additionalProperties": false}
	}
	return map[string]any{} // anything
}

func property(v reflect.Value, doc string) map[string]any {
	s := schema(v)
	if doc != "" {
		s["description"] = doc
	}
	if value := jsonValue(v); value != nil && settingKind(v.Type()) != section {
		s["default"] = value
	}
	return s
}
