package poller

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/pkg/event"
)

func TestTemplates(t *testing.T) {
	now := time.Unix(1700000000, 0)
	m := moment{now: now.Add(1500 * time.Millisecond), slot: now, prev: json.RawMessage(`{"n":41,"big":123456789012345678901,"t":"a b/c"}`), position: 26}
	for _, tt := range []struct{ text, want string }{ // want: JSON, or an error after !
		{"plain }} text", `"plain }} text"`},
		{"{{ $slot }}", `1700000000`},
		{"{{ $now }}", `1700000001.5`},
		{"at {{ $slot }}!", `"at 1700000000!"`},
		{"{{ $position | hex }}", `"0x1a"`},
		{`{{ "0x1A" | fromhex }}`, `26`},
		{`{{ "-ffffffffffffffffffff" | fromhex }}`, `-1208925819614629174706175`},
		{`{{ "ffffffffffffffffffff" | fromhex | hex }}`, `"0xffffffffffffffffffff"`},
		{`{{ -5 | hex }}`, `"-0x5"`},
		{`{{ $prev.n | hex }}`, `"0x29"`},
		{`{{ $prev.big | hex }}`, `"0x6b14e9f812f366c35"`},
		{`{{ 1e3 | hex }}`, `"0x3e8"`},
		{"{{ $prev.n + 1 }}", `42`},
		{"{{ $prev.big }}", `123456789012345678901`},
		{"{{ {a:{b:$prev.n}} }}", `{"a":{"b":41}}`},
		{`{{ "}}" }}{{ "{{" }}`, `"}}{{"`},
		{"x{{ [$prev.n] }}y", `"x[41]y"`},
		{`{{ $slot | strftime("%Y-%m-%d") }}`, `"2023-11-14"`},
		{"{{ null }}", `null`},
		{"x{{ $prev.nope }}", "!params gives null"},
		{"{{ empty }}", "!params gives no value"},
		{"{{ 1, 2 }}", "!params gives several values"},
		{`{{ 1.5 | hex }}`, "!no whole number"},
		{`{{ "xyz" | fromhex }}`, `!fromhex cannot be applied to this string`},
		{`{{ "0x" | fromhex }}`, `!fromhex cannot be applied to this`},
		{`{{ "1_0" | fromhex }}`, `!fromhex cannot be applied to`},
		{`{{ {} | hex }}`, "!hex cannot be applied to this object"},
		{"{{ [range(1e9)] | length }}", "!params takes too long"},
		{`{{ "x" * 2000000 }}`, "!more than 1 MiB"},
		{`{{ error("no") }}`, "!params: error: no"},
	} {
		q, bad := newQuestion(asking{params: tt.text}, append([]string{"$position"}, pollVariables...), 200*time.Millisecond)
		if len(bad) > 0 {
			t.Errorf("%s: %v", tt.text, bad[0].err)
			continue
		}
		c, err := q.call(t.Context(), m)
		switch problem, wrong := strings.CutPrefix(tt.want, "!"); {
		case wrong && (err == nil || !strings.Contains(err.Error(), problem)):
			t.Errorf("%s: error %v, want %s", tt.text, err, problem)
		case !wrong && (err != nil || string(c.Params) != tt.want):
			t.Errorf("%s: %s, %v; want %s", tt.text, c.Params, err, tt.want)
		}
	}
	// What an upstream's path and query hold stays there.
	for _, tt := range []struct{ path, want string }{
		{"{{ $prev.t }}/x", "a%20b%2Fc/x"},
		{"a/{{ \"..\" }}", "!path holds . or .."},
		{"a/{{ \"\" }}/b", "!path gives an empty text"},
		{"a/{{ $position }}", "a/26"},
	} {
		q, bad := newQuestion(asking{path: tt.path, query: map[string]config.Secret{"q": config.NewSecret("{{ $prev.t }}&"), "s": config.NewSecret("1")}},
			[]string{"$prev", "$position"}, time.Second)
		if len(bad) > 0 {
			t.Fatal(bad)
		}
		c, err := q.call(t.Context(), m)
		if problem, wrong := strings.CutPrefix(tt.want, "!"); wrong {
			if err == nil || !strings.Contains(err.Error(), problem) {
				t.Errorf("%s: error %v, want %s", tt.path, err, problem)
			}
			continue
		}
		if want := (url.Values{"q": {"a b/c&"}, "s": {"1"}}).Encode(); err != nil || c.Path != tt.want || c.Query.Encode() != want {
			t.Errorf("%s: %s ? %s, %v; want %s ? %s", tt.path, c.Path, c.Query.Encode(), err, tt.want, want)
		}
	}
	if have := strings.Join(literals(`token:${X} {{ $a + "in side" + {a:"}}"} }} end`), "|"); have != `token:${X} |in side|}}| end` {
		t.Errorf("literals %s", have)
	}
}

// Each tick asks with what the last one gave, by both drivers, alone and in a
// batch; and no secret in or beside a template shows.
func TestTemplatesInPolls(t *testing.T) {
	const secret = "hunter22-sesame"
	s := bustest.Start(t)
	var mu sync.Mutex
	asked, tagged := map[string][]string{}, 0
	next := map[string]int{}
	u := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Header.Get("If-None-Match") != "" {
			tagged++
		}
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("ETag", `"same"`)
		one := func(name string, q json.RawMessage) string {
			asked[name] = append(asked[name], string(q))
			next[name]++
			if next[name] == 4 {
				return `{"cursor":null}`
			}
			return fmt.Sprintf(`{"cursor":%d}`, next[name])
		}
		if r.Method == http.MethodGet {
			if r.URL.Query().Get("key") != "k "+secret {
				w.WriteHeader(http.StatusUnauthorized)
			}
			_, _ = io.WriteString(w, one("rest", json.RawMessage(r.URL.Path+"?since="+r.URL.Query().Get("since"))))
			return
		}
		type call struct {
			ID     int             `json:"id"`
			Method string          `json:"method"`
			Params json.RawMessage `json:"params"`
		}
		answer := func(c call) string {
			return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"result":%s}`, c.ID, one(c.Method, c.Params))
		}
		var batch []call
		if json.Unmarshal(body, &batch) == nil {
			var all []string
			for _, c := range batch {
				all = append(all, answer(c))
			}
			_, _ = io.WriteString(w, "["+strings.Join(all, ",")+"]")
			return
		}
		var c call
		_ = json.Unmarshal(body, &c)
		_, _ = io.WriteString(w, answer(c))
	}))
	t.Cleanup(u.Close)
	const each = 100 * time.Millisecond
	params := []any{map[string]any{"after": "{{ $prev.cursor }}", "token": secret + "{{ 1 }}"}}
	w := watch(t, s)
	p := run(t, Config{Sources: map[string]Source{
		"api": {Driver: "http", Upstreams: []string{u.URL + "/v1"}, Polls: map[string]Poll{
			"p": {Interval: each, Path: "log/{{ $prev.cursor // 0 }}", Query: map[string]config.Secret{
				"since": config.NewSecret("{{ $prev.cursor // 0 }}"), "key": config.NewSecret(`k {{ "` + secret + `" }}`),
			}},
			"bad": {Interval: each, Path: `x/{{ error("` + secret + `") }}`},
		}},
		"rpc": {Upstreams: []string{u.URL}, Polls: map[string]Poll{"p": {Interval: each, Method: "single", Params: params}}},
		"batch": {Upstreams: []string{u.URL}, Batch: true, Polls: map[string]Poll{
			"p": {Interval: each, Method: "one", Params: params}, "q": {Interval: each, Method: "two", Params: params},
		}},
	}}, s.Config())
	eventually(t, "enough calls", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(asked["rest"]) > 5 && len(asked["single"]) > 5 && len(asked["one"]) > 5 && len(asked["two"]) > 5
	})
	f := w.fresh("a request that cannot be made", func(f *event.Freshness) bool { return f.Poll == "api.bad" && f.ConsecutiveFailures > 6 })
	if f.Reason != event.RequestRejected || f.Breaker != event.Closed || f.Detail != "the request cannot be made: path: error: [redacted]" {
		t.Errorf("freshness %+v", f)
	}
	p.stop()
	mu.Lock()
	defer mu.Unlock()
	for name, have := range asked {
		for i, want := range []string{"null", "1", "2", "3", "null"} {
			text := fmt.Sprintf(`[{"after":%s,"token":"%s1"}]`, want, secret)
			if name == "rest" {
				n := strings.Replace(want, "null", "0", 1)
				text = "/v1/log/" + n + "?since=" + n
			}
			if have[i] != text {
				t.Errorf("%s, call %d: %s, want %s", name, i, have[i], text)
			}
		}
	}
	if tagged != 0 {
		t.Errorf("%d requests bore the ETag of another", tagged)
	}
	for _, m := range w.seen {
		if strings.Contains(show(m), secret) {
			t.Errorf("a secret in %s", show(m))
		}
	}
	status, _ := json.Marshal(p.Status())
	for name, text := range map[string]string{"log": p.log.String(), "status": string(status), "metrics": gather(t, p.reg)} {
		if strings.Contains(text, secret) {
			t.Errorf("a secret is in the %s:\n%s", name, text)
		}
	}
}

// A request that cannot be made when the probe is due is not tried in a loop.
func TestTemplateFailsAtProbe(t *testing.T) {
	from := time.Date(2000, 1, 1, 0, 0, 8, 0, time.UTC).Unix() // synctest's clock begins at 2000
	s := newStage(t, Source{
		Breaker: Breaker{Failures: 5, OpenFor: 10 * time.Second},
		Polls: map[string]Poll{"a": {Interval: time.Second, Method: "a", Params: []any{
			fmt.Sprintf(`{{ if $now > %d and $now < %d then error("no") else 1 end }}`, from, from+40),
		}}},
	}, func(context.Context, string, string) (string, error) {
		if time.Now().Unix() < from+30 {
			return "", errFake
		}
		return "1", nil
	})
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.start()
		defer s.end()
		time.Sleep(45 * time.Second)
		s.mu.Lock()
		logs := s.logs.String()
		s.mu.Unlock()
		if n := strings.Count(logs, "breaker lets one probe through"); n > 5 {
			t.Errorf("%d probes in 45 s, one is due every 10 s", n)
		}
		time.Sleep(15 * time.Second)
		s.wantLast("asked again", 0, false, "", event.Closed, 0)
	})
}
