package event

import (
	"strconv"
	"time"
	"unicode/utf8"
)

// Frequent records and frames are written field by field: encoding/json takes
// eight times as long.

// AppendJSON appends the record in the form of encoding/json, without escaping
// characters that are special only in HTML.
func (f *Freshness) AppendJSON(b []byte) []byte {
	b = AppendString(append(b, `{"poll":`...), f.Poll)
	if !f.AsOf.IsZero() {
		b = AppendTime(append(b, `,"asOf":`...), f.AsOf)
	}
	if !f.CheckedAt.IsZero() {
		b = AppendTime(append(b, `,"checkedAt":`...), f.CheckedAt)
	}
	b = strconv.AppendBool(append(b, `,"stale":`...), f.Stale)
	b = AppendString(append(b, `,"reason":`...), string(f.Reason))
	if f.Detail != "" {
		b = AppendString(append(b, `,"detail":`...), f.Detail)
	}
	b = AppendString(append(b, `,"breaker":`...), string(f.Breaker))
	b = strconv.AppendInt(append(b, `,"consecutiveFailures":`...), int64(f.ConsecutiveFailures), 10)
	if !f.NextProbeAt.IsZero() {
		b = AppendTime(append(b, `,"nextProbeAt":`...), f.NextProbeAt)
	}
	b = strconv.AppendInt(append(b, `,"intervalMs":`...), f.IntervalMs, 10)
	b = strconv.AppendInt(append(b, `,"maxAgeMs":`...), f.MaxAgeMs, 10)
	if f.Fence != 0 {
		b = strconv.AppendUint(append(b, `,"fence":`...), f.Fence, 10)
	}
	return append(b, '}')
}

// AppendTime appends t in the form of encoding/json.
func AppendTime(b []byte, t time.Time) []byte {
	return append(t.AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
}

// AppendString appends s, quoted as encoding/json does without SetEscapeHTML.
func AppendString(b []byte, s string) []byte {
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
			// A line or paragraph separator would end a line of JavaScript.
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
