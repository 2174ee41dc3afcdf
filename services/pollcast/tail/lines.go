package tail

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/pollcast/pollcast/pkg/client"
	"github.com/pollcast/pollcast/pkg/event"
)

// lines prints a line per update, for people. Renewals of freshness are left out.
type lines struct {
	out      io.Writer
	terminal func() (width int, ok bool)
	plain    bool
	now      func() time.Time
	// stale has the last printed reason of each stale poll, so that it is printed
	// once. The client bounds the number of polls.
	stale map[string]event.Reason
	// connected is set after the first connection, lost while there is none.
	connected, lost bool
}

func newLines(out io.Writer, terminal func() (int, bool), plain bool) *lines {
	return &lines{out: out, terminal: terminal, plain: plain, now: time.Now, stale: map[string]event.Reason{}}
}

func (l *lines) print(u client.Update) error {
	switch u := u.(type) {
	case *client.Event:
		return l.event(u)
	case *client.Freshness:
		return l.fresh(u)
	case *client.Breaker:
		return l.breaker(u)
	case *client.Gap:
		return l.line(part{bold, u.Topic},
			part{yellow, fmt.Sprintf("%d events missed, versions %d to %d", u.Missed(), u.After+1, u.Before-1)})
	case *client.Resumed:
		if u.Complete {
			return nil
		}
		why := ""
		if u.Reason != "" {
			why = " (" + u.Reason + ")"
		}
		return l.line(part{bold, "gateway"},
			part{yellow, "cannot give what was published meanwhile" + why + "; the current values follow"})
	case *client.Connection:
		return l.connection(u)
	}
	return nil
}

func (l *lines) event(u *client.Event) error {
	parts := []part{{bold, u.Topic}, {dim, fmt.Sprintf("v%d", u.Version)}, {dim, age(u.Age)}}
	if n := u.Event.Position; n != nil {
		parts = append(parts, part{dim, fmt.Sprintf("#%d", *n)})
	}
	if u.Stale {
		parts = append(parts, part{yellow, "stale " + string(u.Reason)})
	}
	if u.Reorganised {
		parts = append(parts, part{yellow, "reorganised"})
	}
	if u.Deleted {
		return l.line(append(parts, part{yellow, "deleted"})...)
	}
	var data bytes.Buffer
	if err := json.Compact(&data, u.Data); err != nil {
		return fmt.Errorf("value of %s: %w", u.Topic, err) // cannot happen: the frame was JSON
	}
	return l.line(append(parts, part{normal, data.String()})...)
}

func (l *lines) fresh(u *client.Freshness) error {
	if u.Reason == event.ConnectionLost {
		return nil // one line is printed for all polls
	}
	reason, was := l.stale[u.Poll]
	if !u.Stale {
		if !was {
			return nil
		}
		delete(l.stale, u.Poll)
		return l.line(part{bold, u.Poll}, part{green, "fresh again"})
	}
	if was && reason == u.Reason {
		return nil
	}
	l.stale[u.Poll] = u.Reason
	parts := []part{{bold, u.Poll}, {yellow, "stale " + string(u.Reason)}}
	if u.Age >= 0 {
		parts = append(parts, part{dim, age(u.Age) + " old"})
	} else {
		parts = append(parts, part{dim, "no value yet"})
	}
	if u.Detail != "" {
		parts = append(parts, part{normal, u.Detail})
	}
	if u.Breaker == event.Open && !u.NextProbeAt.IsZero() {
		parts = append(parts, part{dim, "next probe " + u.NextProbeAt.Local().Format(time.TimeOnly)})
	}
	return l.line(parts...)
}

func (l *lines) breaker(u *client.Breaker) error {
	color := red
	if u.To == event.Closed {
		color = green
	}
	parts := []part{{bold, u.Source}, {color, fmt.Sprintf("breaker %s -> %s", u.From, u.To)}, {normal, u.Upstream}}
	if u.Cause != "" {
		parts = append(parts, part{normal, u.Cause})
	}
	if u.Failures > 0 {
		parts = append(parts, part{dim, fmt.Sprintf("after %d failures", u.Failures)})
	}
	if u.To == event.Open && !u.NextProbeAt.IsZero() {
		parts = append(parts, part{dim, "next probe " + u.NextProbeAt.Local().Format(time.TimeOnly)})
	}
	return l.line(parts...)
}

func (l *lines) connection(u *client.Connection) error {
	switch {
	case isPermanent(u.Err):
		return nil // it is printed when the program ends
	case !u.Connected && !l.connected:
		return nil // it is printed on stderr
	case !u.Connected:
		l.lost = true
		return l.line(part{bold, "gateway"},
			part{red, fmt.Sprintf("connection lost: %v; everything is stale, trying again", u.Err)})
	case u.Moved:
		return l.line(part{bold, "gateway"}, part{green, "moved to " + u.Gateway})
	case l.lost:
		l.lost = false
		return l.line(part{bold, "gateway"}, part{green, "connected again, to " + u.Gateway})
	}
	l.connected = true
	return nil
}

// line writes the time and the parts, cut to the width of the terminal if it is
// one.
func (l *lines) line(parts ...part) error {
	width, isTerminal := l.terminal()
	parts = append([]part{{dim, clockTime(l.now())}}, parts...)
	var b strings.Builder
	left := width
	for i, p := range parts {
		text := printable(p.text)
		if i > 0 {
			text = "  " + text
		}
		if isTerminal {
			text, left = cut(text, left)
		}
		if isTerminal && !l.plain && p.style != normal && strings.TrimSpace(text) != "" {
			text = string(p.style) + text + reset
		}
		b.WriteString(text)
		if isTerminal && left <= 0 {
			break
		}
	}
	b.WriteByte('\n')
	_, err := io.WriteString(l.out, b.String())
	return err
}

// age writes a duration for people, in about six characters.
func age(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}
