package poller

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	page "html/template"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/history"
	"github.com/pollcast/pollcast/services/poller/runner"
)

//go:embed status.html
var statusHTML string

var statusPage = page.Must(page.New("status").Funcs(page.FuncMap{
	"ago": ago, "ms": millis, "clock": func(t time.Time) string { return t.UTC().Format("15:04:05.000") },
	"span": func(ms int64) string { return brief(time.Duration(ms) * time.Millisecond) },
	"tone": tone, "oldestFirst": oldestFirst,
}).Parse(statusHTML))

// statusView is what the page shows.
type statusView struct {
	Status
	Now     time.Time
	Only    string // the source that the request names; empty: all
	Brief   bool   // too many polls to show the attempts of each
	Polls   int    // number of polls
	Stale   int    // number of polls with a stale value
	Refresh int    // seconds until the browser loads the page again; 0: it does not
}

const (
	// maxDetailed is the largest number of polls for which the page shows all attempts.
	maxDetailed = 200
	// maxRefresh is the largest number of seconds of ?refresh.
	maxRefresh = 3600
)

// statusHandler serves the status of a poller.
type statusHandler struct {
	summary func() Status // without the sources
	sources func() []*supervisor
}

// ServeHTTP implements http.Handler.
func (h *statusHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	sources, only := h.sources(), r.URL.Query().Get("source")
	if only != "" {
		sources = slices.DeleteFunc(sources, func(s *supervisor) bool { return s.name != only })
		if len(sources) == 0 {
			http.Error(w, "there is no such source", http.StatusNotFound)
			return
		}
	}
	w.Header().Set("Vary", "Accept")
	w.Header().Set("Cache-Control", "no-store")
	if !wantsPage(r) {
		w.Header().Set("Content-Type", "application/json")
		_ = writeStatus(w, h.summary(), sources) // fails only when the reader has gone
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	v := statusView{Status: h.summary(), Now: time.Now(), Only: only}
	_, _ = fmt.Sscan(r.URL.Query().Get("refresh"), &v.Refresh) // what is no number means 0
	v.Refresh = min(max(v.Refresh, 0), maxRefresh)
	v.add(sources)
	var body bytes.Buffer
	if err := statusPage.Execute(&body, v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(body.Bytes()) // fails only when the reader has gone
}

// add adds sources to the page.
func (v *statusView) add(sources []*supervisor) {
	for _, s := range sources {
		v.Polls += len(s.runner.Load().Polls)
	}
	v.Brief = v.Polls > maxDetailed && v.Only == ""
	for _, s := range sources {
		status := s.status(!v.Brief)
		for _, poll := range status.Polls {
			if status.Owned && poll.Stale {
				v.Stale++
			}
		}
		v.Sources = append(v.Sources, status)
	}
}

// writeStatus writes a Status as JSON. It encodes one source after another, because what
// 5,000 polls remember takes 50 MB.
func writeStatus(w io.Writer, s Status, sources []*supervisor) error {
	head, err := json.MarshalIndent(struct {
		Status
		Sources []runner.Status `json:"sources,omitempty"` // hides those of Status; they come below
	}{Status: s}, "", "  ")
	if err != nil {
		return err
	}
	out := append(bytes.TrimSuffix(head, []byte("\n}")), ",\n  \"sources\": ["...)
	for i, source := range sources {
		if i > 0 {
			out = append(out, ',')
		}
		data, err := json.MarshalIndent(source.status(true), "    ", "  ")
		if err != nil {
			return err
		}
		if _, err := w.Write(append(append(out, "\n    "...), data...)); err != nil {
			return err
		}
		out = out[:0]
	}
	_, err = w.Write(append(out, "\n  ]\n}\n"...))
	return err
}

// wantsPage reports whether a request wants the page and not JSON.
func wantsPage(r *http.Request) bool {
	switch r.URL.Query().Get("format") {
	case "html":
		return true
	case "json":
		return false
	}
	return strings.Contains(r.Header.Get("Accept"), "text/html")
}

// tone returns the CSS class of a state, a reason or an outcome.
func tone(v any) string {
	switch fmt.Sprint(v) {
	case history.OutcomeOK, string(event.Closed):
		return "good"
	case string(event.BreakerOpen), string(event.HalfOpen):
		return "held"
	case string(event.NotAdvancing), string(event.RequestRejected):
		return "warn"
	}
	return "bad"
}

// oldestFirst returns attempts in the reverse order.
func oldestFirst(list []history.Attempt) []history.Attempt {
	list = slices.Clone(list)
	slices.Reverse(list)
	return list
}

// ago describes how long before now, or after it, a time is.
func ago(now, t time.Time) string {
	switch d := now.Sub(t); {
	case t.IsZero():
		return "never"
	case d < 0:
		return "in " + brief(-d)
	default:
		return brief(d) + " ago"
	}
}

// brief describes a duration in at most two units.
func brief(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return whole(d.Round(time.Second))
	case d < 48*time.Hour:
		return whole(d.Round(time.Minute))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// whole describes a duration without seconds if there are none: 5m, not 5m0s.
func whole(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	return s
}

// millis describes a duration that is given in milliseconds.
func millis(v float64) string {
	return brief(time.Duration(v * float64(time.Millisecond)).Round(10 * time.Microsecond))
}
