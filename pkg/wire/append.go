package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/pollcast/pollcast/pkg/event"
)

// AppendJSON appends the frame as ProtocolJSON has it, without what is only
// special in HTML escaped. The two frames that there are many of are written
// field by field, the others by encoding/json, which a test holds them all
// against. Data must be valid JSON.
func (f *ServerFrame) AppendJSON(dst []byte) ([]byte, error) {
	switch {
	case f.ID != 0:
	case f.Event != nil:
		return append(f.Event.appendJSON(append(dst, `{"event":`...)), '}'), nil
	case f.Fresh != nil:
		return append(appendFreshness(append(dst, `{"fresh":`...), f.Fresh), '}'), nil
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
	b = appendString(append(b, `{"topic":`...), e.Topic)
	b = strconv.AppendUint(append(b, `,"seq":`...), e.Seq, 10)
	b = strconv.AppendUint(append(b, `,"version":`...), e.Version, 10)
	b = appendString(append(b, `,"phase":`...), string(e.Phase))
	b = appendTime(append(b, `,"changedAt":`...), e.ChangedAt)
	b = appendTime(append(b, `,"asOf":`...), e.AsOf)
	b = strconv.AppendInt(append(b, `,"ageMs":`...), e.AgeMs, 10)
	b = strconv.AppendBool(append(b, `,"stale":`...), e.Stale)
	b = appendString(append(b, `,"reason":`...), string(e.Reason))
	b = appendString(append(b, `,"breaker":`...), string(e.Breaker))
	if e.Deleted {
		b = append(b, `,"deleted":true`...)
	}
	if e.Key != "" {
		b = appendString(append(b, `,"key":`...), e.Key)
	}
	b = appendString(append(b, `,"poll":`...), e.Poll)
	if e.Upstream != "" {
		b = appendString(append(b, `,"upstream":`...), e.Upstream)
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

func appendFreshness(b []byte, f *event.Freshness) []byte {
	b = appendString(append(b, `{"poll":`...), f.Poll)
	if !f.AsOf.IsZero() {
		b = appendTime(append(b, `,"asOf":`...), f.AsOf)
	}
	if !f.CheckedAt.IsZero() {
		b = appendTime(append(b, `,"checkedAt":`...), f.CheckedAt)
	}
	b = strconv.AppendBool(append(b, `,"stale":`...), f.Stale)
	b = appendString(append(b, `,"reason":`...), string(f.Reason))
	if f.Detail != "" {
		b = appendString(append(b, `,"detail":`...), f.Detail)
	}
	b = appendString(append(b, `,"breaker":`...), string(f.Breaker))
	b = strconv.AppendInt(append(b, `,"consecutiveFailures":`...), int64(f.ConsecutiveFailures), 10)
	if !f.NextProbeAt.IsZero() {
		b = appendTime(append(b, `,"nextProbeAt":`...), f.NextProbeAt)
	}
	b = strconv.AppendInt(append(b, `,"intervalMs":`...), f.IntervalMs, 10)
	b = strconv.AppendInt(append(b, `,"maxAgeMs":`...), f.MaxAgeMs, 10)
	if f.Fence != 0 {
		b = strconv.AppendUint(append(b, `,"fence":`...), f.Fence, 10)
	}
	return append(b, '}')
}

func appendTime(b []byte, t time.Time) []byte {
	return append(t.AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
}

// appendString quotes s as encoding/json does.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		n := 1
		if c >= utf8.RuneSelf {
			var r rune
			r, n = utf8.DecodeRuneInString(s[i:])
			// Line and paragraph separator would end a line of JavaScript.
			if separator := r == '\u2028' || r == '\u2029'; !separator && (r != utf8.RuneError || n > 1) {
				i += n
				continue
			}
			b = append(b, s[from:i]...)
			if n == 1 {
				b = append(b, `\ufffd`...)
			} else {
				b = append(b, `\u202`...)
				b = append(b, hex[r&0xF])
			}
			i += n
			from = i
			continue
		}
		b = append(b, s[from:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\b':
			b = append(b, `\b`...)
		case '\f':
			b = append(b, `\f`...)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&0xF])
		}
		i++
		from = i
	}
	return append(append(b, s[from:]...), '"')
}

// appendCompact appends valid JSON without the space between its tokens.
func appendCompact(b, data []byte) []byte {
	from := 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"': // to the end of the string
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
