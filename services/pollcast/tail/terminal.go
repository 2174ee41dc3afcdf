package tail

import (
	"io"
	"os"
	"strings"
	"unicode"

	"golang.org/x/term"
)

// style is an escape sequence (ECMA-48, SGR).
type style string

const (
	normal style = ""
	bold   style = "\x1b[1m"
	dim    style = "\x1b[2m"
	red    style = "\x1b[31m"
	green  style = "\x1b[32m"
	yellow style = "\x1b[33m"
	reset        = "\x1b[0m"
)

// part is a piece of a line.
type part struct {
	style style
	text  string
}

// terminalWidth returns the columns of w if it is a terminal. It is called for
// every line, because a window can change its size.
func terminalWidth(w io.Writer) (int, bool) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 {
		width = 80
	}
	return width, true
}

// printable removes control characters: values and messages come from upstreams
// and must not control the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// cut shortens s to width columns, with an ellipsis, and returns the remaining
// columns.
func cut(s string, width int) (string, int) {
	used, fits := 0, 0 // fits: the bytes before the ellipsis
	for i, r := range s {
		w := columns(r)
		if used+w > width {
			return s[:fits] + "…", 0
		}
		if used += w; used < width {
			fits = i + len(string(r))
		}
	}
	return s, width - used
}

// columns returns how many columns a rune takes: wide East Asian ones and emoji
// two, combining marks none.
func columns(r rune) int {
	switch {
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case r >= 0x1100 && r <= 0x115F, r >= 0x2E80 && r <= 0xA4CF, r >= 0xAC00 && r <= 0xD7A3,
		r >= 0xF900 && r <= 0xFAFF, r >= 0xFE30 && r <= 0xFE6F, r >= 0xFF00 && r <= 0xFF60,
		r >= 0x1F300 && r <= 0x1FAFF, r >= 0x20000 && r <= 0x3FFFD:
		return 2
	}
	return 1
}
