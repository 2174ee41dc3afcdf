package poller

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

// What /status shows of an upstream that fails, to programs and to people.
func TestStatusPage(t *testing.T) {
	s, u, well := bustest.Start(t), newRPC(t), newRPC(t)
	c := oneSource(u.URL, 100*time.Millisecond, 300*time.Millisecond)
	c.Sources["well"] = oneSource(well.URL, 100*time.Millisecond, time.Minute).Sources["host"]
	w := watch(t, s)
	p := run(t, c, s.Config())
	w.fresh("fresh", func(f *event.Freshness) bool { return f.Poll == "host.system.status" && !f.Stale })
	u.set("503")
	w.fresh("a probe failed", func(f *event.Freshness) bool { return f.ConsecutiveFailures > 5 })
	get := func(query, accept string) (*httptest.ResponseRecorder, string) {
		r := httptest.NewRequest(http.MethodGet, "/status"+query, nil)
		r.Header.Set("Accept", accept)
		rec := httptest.NewRecorder()
		p.StatusHandler().ServeHTTP(rec, r)
		return rec, rec.Body.String()
	}
	var st Status
	pollertest.Eventually(t, "the attempts show it", func() bool {
		rec, body := get("?source=host", "*/*")
		st = Status{}
		if err := json.Unmarshal([]byte(body), &st); err != nil || rec.Header().Get("Content-Type") != "application/json" {
			t.Fatalf("%v, %q", err, rec.Header())
		}
		return len(st.Sources) == 1 && len(st.Sources[0].Polls[0].Attempts) > 7
	})
	poll, outcomes := st.Sources[0].Polls[0], map[string]int{}
	for _, a := range poll.Attempts {
		outcomes[a.Outcome]++
		if (a.Outcome == "breaker_open") != (a.Upstream == "") || a.At.IsZero() || a.Upstream != "" && (a.Upstream != u.URL || a.TookMs <= 0) {
			t.Errorf("attempt %+v", a)
		}
	}
	if outcomes["ok"] == 0 || outcomes["upstream_error"] < 6 || outcomes["breaker_open"] == 0 {
		t.Errorf("outcomes %v", outcomes)
	}
	if log := strings.Join(poll.Log, "\n"); !strings.Contains(log, "value is stale") || !strings.Contains(log, "HTTP 503") {
		t.Errorf("log of the poll: %q", log)
	}
	if log := strings.Join(st.Sources[0].Log, "\n"); !strings.Contains(log, "lease acquired") || !strings.Contains(log, "probe failed") {
		t.Errorf("log of the source: %q", log)
	}
	if h := st.Sources[0].Upstreams[0].History; len(h) < 3 || h[len(h)-1].To != event.Open || h[len(h)-1].Cause != "HTTP 503 Service Unavailable" {
		t.Errorf("history %+v", h)
	}

	rec, page := get("", "text/html,application/xhtml+xml,*/*;q=0.8")
	for _, want := range []string{"1 of 2 polls stale", "host.system.status", "well.system.status", "HTTP 503 Service Unavailable", "upstream_error", "<b class=\"good\">fresh</b>", "polled by this poller", "value is stale"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if csp := rec.Header().Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") || strings.Contains(page, "<script") || rec.Header().Get("Vary") != "Accept" {
		t.Errorf("headers %v", rec.Header())
	}
	if _, page := get("?source=well&refresh=5", "text/html"); strings.Contains(page, "host.system.status") || !strings.Contains(page, `http-equiv="refresh" content="5"`) || !strings.Contains(page, "all well") {
		t.Errorf("the page of one source: %s", page)
	}
	if rec, _ := get("?source=nothing", "text/html"); rec.Code != http.StatusNotFound {
		t.Errorf("no such source: %d", rec.Code)
	}
	// It is written source by source, and is what Status gives.
	p.stop()
	for n, want := range map[int]Status{2: p.Status(), 1: p.Status(), 0: p.Status()} {
		want.Sources = want.Sources[:n]
		var out strings.Builder
		if err := writeStatus(&out, p.summary(), p.sources.list()[:n]); err != nil {
			t.Fatal(err)
		}
		whole, err := json.MarshalIndent(want, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if have := decoded(t, out.String()); !reflect.DeepEqual(have, decoded(t, string(whole))) {
			t.Errorf("%d sources: have %s, want %s", n, out.String(), whole)
		}
	}
	if _, page := get("?format=json", "text/html"); !reflect.DeepEqual(decoded(t, page), jq.Plain(p.Status())) {
		t.Errorf("format=json gives %s", page)
	}
}

func decoded(t *testing.T, text string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

func TestBrief(t *testing.T) {
	for d, want := range map[time.Duration]string{
		120 * time.Millisecond: "120ms", 1234 * time.Millisecond: "1.2s", 59 * time.Second: "59s",
		3 * time.Minute: "3m", 90 * time.Second: "1m30s", 10*time.Minute + 20*time.Second: "10m20s", 59*time.Second + 700*time.Millisecond: "1m", 61*time.Minute + 4*time.Second: "1h1m", 72 * time.Hour: "3 days",
	} {
		if have := brief(d); have != want {
			t.Errorf("%v: %s, want %s", d, have, want)
		}
	}
	if have := fmt.Sprint(millis(0.456), " ", millis(1500)); have != "460µs 1.5s" && have != "0s 1.5s" {
		t.Errorf("have %s", have)
	}
}

// A line of a source names it once, and what a poll logs is in the poll's own lines, not
// among those of the source.
func TestLogsAreApart(t *testing.T) {
	s, u := bustest.Start(t), newRPC(t)
	u.set("503")
	w := watch(t, s)
	p := run(t, oneSource(u.URL, 100*time.Millisecond, time.Hour), s.Config())
	w.fresh("stale", func(f *event.Freshness) bool { return f.Stale })
	for line := range strings.Lines(p.log.String()) {
		if strings.Count(line, " source=") > 1 {
			t.Errorf("a line names its source twice: %s", line)
		}
	}
	source := p.Status().Sources[0]
	if len(source.Log) == 0 || len(source.Polls[0].Log) == 0 {
		t.Fatalf("lines of the source %q, of the poll %q", source.Log, source.Polls[0].Log)
	}
	for _, line := range source.Log {
		if strings.Contains(line, "poll=") {
			t.Errorf("among the source's lines: %s", line)
		}
	}
}
