package admin

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// A web page of another site in a browser on this machine cannot reload; tools
// can. The handlers of More are served.
func TestReloadCrossOrigin(t *testing.T) {
	reloads := 0
	s, err := New(Options{
		Listen: "127.0.0.1:0", Ready: func() error { return nil }, Gatherer: prometheus.NewRegistry(),
		Logger: slog.New(slog.DiscardHandler),
		Reload: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reloads++ }),
		More: map[string]http.Handler{"GET /more": http.HandlerFunc(func(w http.ResponseWriter,
			_ *http.Request) {
			fmt.Fprint(w, "more")
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, c := range []struct {
		method, path, header, value string
		want                        int
	}{
		{"POST", "/reload", "Origin", "https://example.com", 403},
		{"POST", "/reload", "Origin", "null", 403},
		{"POST", "/reload", "Sec-Fetch-Site", "cross-site", 403},
		{"POST", "/reload", "Sec-Fetch-Site", "same-site", 403}, // another port of this host
		{"GET", "/reload", "", "", 405},
		{"POST", "/reload", "Origin", "http://" + s.Addr(), 200},
		{"POST", "/reload", "", "", 200}, // curl
		{"GET", "/more", "", "", 200},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+s.Addr()+c.path, strings.NewReader(""))
		if err != nil {
			t.Fatal(err)
		}
		if c.header != "" {
			req.Header.Set(c.header, c.value)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if res.StatusCode != c.want {
			t.Errorf("%s %s with %s %q: have %s, want %d", c.method, c.path, c.header, c.value, res.Status, c.want)
		}
	}
	if reloads != 2 {
		t.Errorf("reloaded %d times, want 2", reloads)
	}
}
