package ws

import (
	"slices"
	"strconv"
	"strings"
)

// OffersDeflate reports whether a client offers permessage-deflate in a way that
// can be accepted. extensions are the values of Sec-WebSocket-Extensions. Offers
// that break RFC 7692, section 7.1, are declined. So are those that ask for a
// smaller window of the server: Go's compressor has one size, and the answer
// would have to name it.
func OffersDeflate(extensions []string) bool {
	offers := splitUnquoted(strings.Join(extensions, ","), ',')
	return slices.ContainsFunc(offers, func(offer string) bool {
		params := splitUnquoted(offer, ';')
		return params[0] == "permessage-deflate" && acceptable(params[1:])
	})
}

func acceptable(params []string) bool {
	seen := map[string]bool{}
	for _, param := range params {
		name, value, valued := strings.Cut(param, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if seen[name] {
			return false
		}
		seen[name] = true
		if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
			value = value[1 : n-1]
		}
		switch name {
		case "server_no_context_takeover", "client_no_context_takeover":
			if valued {
				return false
			}
		case "client_max_window_bits": // a hint: the decompressor has the largest window
			bits, err := strconv.Atoi(value)
			if valued && (err != nil || bits < 8 || bits > 15 || strconv.Itoa(bits) != value) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// splitUnquoted splits s at each separator that is not in a quoted string.
func splitUnquoted(s string, sep byte) (parts []string) {
	quoted, from := false, 0
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == sep && !quoted:
			parts = append(parts, strings.TrimSpace(s[from:i]))
			from = i + 1
		}
	}
	return append(parts, strings.TrimSpace(s[from:]))
}
