package poller

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus/bustest"
	conf "github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

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
	p := run(t, config.Config{Sources: map[string]config.Source{
		"api": {Driver: "http", Upstreams: []string{u.URL + "/v1"}, Polls: map[string]config.Poll{
			"p": {Interval: each, Path: "log/{{ $prev.cursor // 0 }}", Query: map[string]conf.Secret{
				"since": conf.NewSecret("{{ $prev.cursor // 0 }}"), "key": conf.NewSecret(`k {{ "` + secret + `" }}`),
			}},
			"bad": {Interval: each, Path: `x/{{ error("` + secret + `") }}`},
		}},
		"rpc": {Upstreams: []string{u.URL}, Polls: map[string]config.Poll{"p": {Interval: each, Method: "single", Params: params}}},
		"batch": {Upstreams: []string{u.URL}, Batch: true, Polls: map[string]config.Poll{
			"p": {Interval: each, Method: "one", Params: params}, "q": {Interval: each, Method: "two", Params: params},
		}},
	}}, s.Config())
	pollertest.Eventually(t, "enough calls", func() bool {
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
		if strings.Contains(pollertest.Show(m), secret) {
			t.Errorf("a secret in %s", pollertest.Show(m))
		}
	}
	status, _ := json.Marshal(p.Status())
	for name, text := range map[string]string{"log": p.log.String(), "status": string(status), "metrics": gather(t, p.reg)} {
		if strings.Contains(text, secret) {
			t.Errorf("a secret is in the %s:\n%s", name, text)
		}
	}
}
