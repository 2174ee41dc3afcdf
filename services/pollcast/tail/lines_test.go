package tail

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/client"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
)

// On a terminal every line fits, and has colours unless they are switched off.
func TestTerminal(t *testing.T) {
	long := &client.Event{Event: wire.Event{Topic: "host.system.status", Version: 7,
		Data: []byte(`{"text":"` + strings.Repeat("日本語 and more ", 20) + `"}`)}, Age: 1500 * time.Millisecond}
	stale := &client.Freshness{Freshness: event.Freshness{Poll: "host.system.status", Stale: true, Reason: event.Timeout,
		Detail: "a \x1b[2Jb"}, Age: -1}
	for _, plain := range []bool{false, true} {
		for _, width := range []int{1, 10, 20, 40, 80, 1000} {
			var out bytes.Buffer
			l := newLines(&out, func() (int, bool) { return width, true }, plain)
			l.now = func() time.Time { return time.Date(2026, 11, 22, 20, 31, 5, 123e6, time.Local) }
			for _, u := range []client.Update{long, stale} {
				out.Reset()
				if width < 1000 {
					delete(l.stale, "host.system.status")
				}
				if err := l.print(u); err != nil {
					t.Fatal(err)
				}
				line := out.String()
				if have := strings.Contains(line, "\x1b["); have == plain {
					t.Errorf("width %d, plain %v: have colours %v: %q", width, plain, have, line)
				}
				for _, s := range []style{bold, dim, red, green, yellow, reset} {
					line = strings.ReplaceAll(line, string(s), "")
				}
				if strings.ContainsRune(line, 0x1b) {
					t.Errorf("an escape sequence of a value got through: %q", line)
				}
				n := 0
				for _, r := range strings.TrimSuffix(line, "\n") {
					n += columns(r)
				}
				if n > width {
					t.Errorf("width %d: have %d columns: %q", width, n, line)
				}
				if width == 80 && u == client.Update(long) &&
					!strings.HasPrefix(line, `20:31:05.123  host.system.status  v7  1.5s  {"text":"日本語 and`) {
					t.Errorf("have %q", line)
				}
				if width < 80 && n < width-1 {
					t.Errorf("width %d: have %d columns only: %q", width, n, line)
				}
			}
		}
	}
}

func TestOtherLines(t *testing.T) {
	for _, tt := range []struct {
		u    client.Update
		want string
	}{
		{&client.Gap{Topic: "host.cpu", After: 2, Before: 6}, "host.cpu  3 events missed, versions 3 to 5"},
		{&client.Resumed{Reason: wire.NotResumedTrimmed},
			"gateway  cannot give what was published meanwhile (trimmed); the current values follow"},
		{&client.Resumed{Complete: true}, ""},
		{&client.Connection{Connected: true, Gateway: "gw-2", Moved: true}, "gateway  moved to gw-2"},
		{&client.Connection{Connected: true, Gateway: "gw-2"}, ""},
		{&client.Connection{Err: errors.New("never there")}, ""},
		{&client.Connection{Err: &client.CloseError{Code: wire.CloseUnauthorized}}, ""},
		{&client.Freshness{Freshness: event.Freshness{Poll: "a.b"}}, ""},
		{&client.Freshness{Freshness: event.Freshness{Poll: "a.b", Stale: true, Reason: event.ConnectionLost}}, ""},
		{&client.Freshness{Freshness: event.Freshness{Poll: "a.b", Stale: true, Reason: event.Timeout}, Age: -1},
			"a.b  stale timeout  no value yet"},
		{&client.Freshness{Freshness: event.Freshness{Poll: "a.b", Stale: true, Reason: event.Timeout},
			Age: 90 * time.Second}, "a.b  stale timeout  1m30s old"},
	} {
		var out bytes.Buffer
		l := newLines(&out, func() (int, bool) { return 0, false }, false)
		if err := l.print(tt.u); err != nil {
			t.Fatal(err)
		}
		have := strings.TrimSuffix(out.String(), "\n")
		if _, rest, found := strings.Cut(have, "  "); found {
			have = rest
		}
		if have != tt.want {
			t.Errorf("%+v: have %q, want %q", tt.u, have, tt.want)
		}
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                                "0ms",
		12*time.Millisecond + 999:        "12ms",
		999 * time.Millisecond:           "999ms",
		1990 * time.Millisecond:          "1.9s",
		59*time.Second + 999*1e6:         "59s",
		65 * time.Second:                 "1m05s",
		time.Hour + 2*time.Minute:        "1h02m",
		75*time.Hour + 59*time.Minute:    "3d03h",
		24*365*time.Hour + 3*time.Second: "365d00h",
	} {
		if have := age(d); have != want {
			t.Errorf("%v: have %s, want %s", d, have, want)
		}
	}
}
