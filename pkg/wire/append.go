package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/pollcast/pollcast/pkg/event"
)

// AppendJSON appends the frame in the form of ProtocolJSON. Characters that are
// special only in HTML are not escaped. The two most frequent frames are written
// field by field, the others by encoding/json; a test compares all of them with
// encoding/json. Data must be valid JSON.
func (f *ServerFrame) AppendJSON(dst []byte) ([]byte, error) {
	switch {
	case f.ID != 0:
	case f.Event != nil:
		return append(f.Event.appendJSON(append(dst, `{"event":`...)), '}'), nil
	case f.Fresh != nil:
		return append(f.Fresh.AppendJSON(append(dst, `{"fresh":`...)), '}'), nil
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(f); err != nil {
		return dst, fmt.Errorf("encode frame: %w", err)
	}
	return append(dst, bytes.TrimSuffix(buf.Bytes(), []byte{'\n'})...), nil
}

func (e *Event) appendJSON(b []byte) []byte {
	b = event.AppendString(append(b, `{"topic":`...), e.Topic)
	b = strconv.AppendUint(append(b, `,"seq":`...), e.Seq, 10)
	b = strconv.AppendUint(append(b, `,"version":`...), e.Version, 10)
	b = event.AppendString(append(b, `,"phase":`...), string(e.Phase))
	b = event.AppendTime(append(b, `,"changedAt":`...), e.ChangedAt)
	b = event.AppendTime(append(b, `,"asOf":`...), e.AsOf)
	b = strconv.AppendInt(append(b, `,"ageMs":`...), e.AgeMs, 10)
	b = strconv.AppendBool(append(b, `,"stale":`...), e.Stale)
	b = event.AppendString(append(b, `,"reason":`...), string(e.Reason))
	b = event.AppendString(append(b, `,"breaker":`...), string(e.Breaker))
	if e.Deleted {
		b = append(b, `,"deleted":true`...)
	}
	if e.Key != "" {
		b = event.AppendString(append(b, `,"key":`...), e.Key)
	}
	b = event.AppendString(append(b, `,"poll":`...), e.Poll)
	if e.Upstream != "" {
		b = event.AppendString(append(b, `,"upstream":`...), e.Upstream)
	}
	if e.Position != nil {
		b = strconv.AppendInt(append(b, `,"position":`...), *e.Position, 10)
	}
	if e.Reorganised {
		b = append(b, `,"reorganised":true`...)
	}
	if len(e.Data) > 0 {
		b = appendCompact(append(b, `,"data":`...), e.Data)
	}
	return append(b, '}')
}

// appendCompact appends valid JSON without the space between its tokens.
func appendCompact(b, data []byte) []byte {
	from := 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"': // skip to the end of the string
			for i++; i < len(data) && data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
		case ' ', '\t', '\n', '\r':
			b = append(b, data[from:i]...)
			from = i + 1
		}
	}
	return append(b, data[from:]...)
}
