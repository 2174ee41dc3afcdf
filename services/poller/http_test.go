package poller

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	conf "github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

// Driver http through the whole walk: 304 confirms, and no secret shows.
func TestHTTPDriver(t *testing.T) {
	const secret = "hunter22-sesame"
	s := bustest.Start(t)
	var confirmed atomic.Int64
	var broken atomic.Bool
	u := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch {
		case broken.Load():
			w.WriteHeader(http.StatusInternalServerError)
		case r.URL.Query().Get("key") != secret || r.Header.Get("X-Token") != secret:
			w.WriteHeader(http.StatusUnauthorized)
		case r.Method == http.MethodPost:
			_, _ = w.Write(body)
		case r.Header.Get("If-None-Match") != "":
			confirmed.Add(1)
			w.WriteHeader(http.StatusNotModified)
		default:
			w.Header().Set("ETag", `"1"`)
			_, _ = io.WriteString(w, `{"data":{"n":1}}`)
		}
	}))
	t.Cleanup(u.Close)
	hidden := map[string]conf.Secret{"key": conf.NewSecret(secret)}
	token := map[string]conf.Secret{"X-Token": conf.NewSecret(secret)}
	w := watch(t, s)
	p := run(t, config.Config{Sources: map[string]config.Source{"api": {
		Driver: "http", Upstreams: []string{u.URL + "/v1"},
		Polls: map[string]config.Poll{
			"get":  {Interval: 100 * time.Millisecond, Path: "status", Query: hidden, Headers: token, Select: ".data"},
			"post": {Interval: 100 * time.Millisecond, Method: "POST", Query: hidden, Headers: token, Body: map[string]any{"q": []any{1, "x"}}},
		},
	}}}, s.Config())
	values := map[string]string{}
	w.until("both values", func(m bus.Message) bool {
		if m.Event != nil {
			values[m.Event.Topic] = string(m.Event.Data)
		}
		return len(values) == 2
	})
	if want := fmt.Sprint(map[string]string{"api.get": `{"n":1}`, "api.post": `{"q":[1,"x"]}`}); fmt.Sprint(values) != want {
		t.Errorf("values %v, want %s", values, want)
	}
	pollertest.Eventually(t, "confirmations", func() bool { return confirmed.Load() > 3 })
	begin := time.Now()
	w.fresh("as of moves", func(f *event.Freshness) bool { return f.Poll == "api.get" && f.AsOf.After(begin) && !f.Stale })
	for _, m := range w.seen {
		if m.Event != nil && m.Event.Version > 1 {
			t.Errorf("an event without a change: %s", pollertest.Show(m))
		}
	}
	broken.Store(true)
	w.fresh("stale", func(f *event.Freshness) bool { return f.Stale && f.Detail == "HTTP 500 Internal Server Error" })
	status, err := json.Marshal(p.Status())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"log": p.log.String(), "status": string(status), "metrics": gather(t, p.reg)} {
		if strings.Contains(text, secret) {
			t.Errorf("a secret is in the %s:\n%s", name, text)
		}
	}
}
