package jq

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// Decode reads one JSON value and keeps numbers as they are written (json.Number).
func Decode(value []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("read value: %w", err)
	}
	if len(bytes.TrimLeft(value[d.InputOffset():], " \t\r\n")) > 0 {
		return nil, errors.New("read value: more than one")
	}
	return v, nil
}

// jsonOf returns v as JSON; nil for null, and for what JSON cannot hold, which the check
// of the configuration reports.
func jsonOf(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil || bytes.Equal(data, []byte("null")) {
		return nil
	}
	return data
}

// Plain returns v as encoding/json reads it back: texts, numbers, lists and maps; nil for
// what JSON cannot hold.
func Plain(v any) any {
	data, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	var out any
	if json.Unmarshal(data, &out) != nil {
		return nil
	}
	return out
}
