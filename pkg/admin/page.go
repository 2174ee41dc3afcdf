package admin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"
)

// NewPage makes the page of a status from the template of its body, which has two
// functions: size writes bytes for people, ago writes how long ago a time was. It
// panics on an invalid template, as template.Must does.
func NewPage(title, body string) *template.Template {
	page := template.Must(template.New(title).Funcs(template.FuncMap{"size": size, "ago": ago}).Parse(layout))
	return template.Must(page.New("body").Parse(body)).Lookup(title)
}

// WriteStatus answers GET /status: with the page to a browser, which asks for
// text/html, and with JSON to others.
func WriteStatus(w http.ResponseWriter, r *http.Request, status any, page *template.Template) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Vary", "Accept")
	var out bytes.Buffer
	var err error
	if page != nil && strings.Contains(r.Header.Get("Accept"), "text/html") {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
		err = page.Execute(&out, status)
	} else {
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(&out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		err = e.Encode(status)
	}
	if err != nil {
		http.Error(w, "show the status: "+err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = out.WriteTo(w) // fails only when the client has gone
}

// size writes bytes with a unit that needs at most four digits.
func size(v any) string {
	var n float64
	switch v := v.(type) {
	case int:
		n = float64(v)
	case int64:
		n = float64(v)
	case uint64:
		n = float64(v)
	default:
		return fmt.Sprint(v)
	}
	for _, unit := range []string{"B", "KiB", "MiB"} {
		if n < 1024 {
			return strings.TrimSuffix(fmt.Sprintf("%.1f", n), ".0") + " " + unit
		}
		n /= 1024
	}
	return fmt.Sprintf("%.1f GiB", n)
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := time.Since(t)
	if d > time.Minute {
		return d.Round(time.Second).String() + " ago"
	}
	return d.Round(time.Millisecond).String() + " ago"
}

// layout is the frame of every page. It has no script and no other file, and
// reloads every 5 seconds.
const layout = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<meta http-equiv="refresh" content="5">
<title>{{block "title" .}}Pollcast{{end}}</title>
<style>
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 2em }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .2em .8em .2em 0; border-bottom: 1px solid #8884; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.bad { color: light-dark(#b00020, #ff8a80); font-weight: 600 }
.good { color: light-dark(#1b6e2c, #8fd19e) } .dim { opacity: .65 }
meter { width: 12em }
</style>
</head>
<body>
{{template "body" .}}
</body>
</html>
`
