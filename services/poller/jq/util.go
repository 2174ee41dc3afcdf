package jq

import (
	"bytes"
	"encoding/json"
	"slices"
)

func SortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// jsonOf is v as JSON; nil for nothing.
func jsonOf(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil || bytes.Equal(data, []byte("null")) {
		return nil
	}
	return data
}

// plain is v as encoding/json would read it back: text, numbers, lists, maps.
func Plain(v any) any {
	data, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(data))
	var out any
	if d.Decode(&out) != nil {
		return nil
	}
	return out
}
