package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// NotJSON describes a body that is not the JSON that was expected. err is that of
// json.Unmarshal.
func NotJSON(body []byte, mediaType string, err error) string {
	switch {
	case mediaType == "text/html" || bytes.HasPrefix(body, []byte("<")) && !bytes.HasPrefix(body, []byte("<?xml")):
		return "answer is HTML, not JSON"
	case bytes.HasPrefix(body, []byte("<?xml")):
		return "answer is XML, not JSON"
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if e.Field != "" {
			return fmt.Sprintf("answer's %q is a JSON %s", e.Field, e.Value)
		}
		return "answer is a JSON " + e.Value + ", an object was expected"
	}
	if err.Error() == "unexpected end of JSON input" {
		return fmt.Sprintf("answer is cut off: its JSON ends early, after %d bytes", len(body))
	}
	return "answer is not JSON: " + err.Error()
}

// Short cuts a text after 40 characters.
func Short(s string) string {
	if r := []rune(s); len(r) > 40 {
		return string(r[:40]) + "…"
	}
	return s
}
