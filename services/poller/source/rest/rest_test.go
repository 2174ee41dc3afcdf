package rest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/sourcetest"
)

func openAt(t *testing.T, address string, header http.Header) source.Func {
	t.Helper()
	call, free, err := Driver.Open(source.Endpoint{URL: address, MaxAnswer: 64 << 10, Header: header})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(free)
	return call
}

func TestRequest(t *testing.T) {
	var got atomic.Pointer[string]
	base := sourcetest.Serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s := fmt.Sprintf("%s %s %q %q %q %s", r.Method, r.RequestURI, r.Header.Get("Content-Type"), r.Header.Get("Accept"),
			r.Header.Get("X"), body)
		got.Store(&s)
		_, _ = io.WriteString(w, ` {"a" : 1.50} `)
	})
	for _, tt := range []struct {
		url  string
		c    source.Call
		want string
	}{
		{"", source.Call{}, `GET / "" "application/json" "1" `},
		{"/v1?k=x", source.Call{}, `GET /v1?k=x "" "application/json" "1" `},
		{"/v1?k=x", source.Call{Path: "a/b%20c", Query: url.Values{"q": {"1&2"}, "p": {""}}},
			`GET /v1/a/b%20c?k=x&p=&q=1%262 "" "application/json" "1" `},
		{"/v1/", source.Call{Path: "/a", Query: url.Values{"q": {"1"}}}, `GET /v1/a?q=1 "" "application/json" "1" `},
		{"/", source.Call{Method: "POST", Path: "q", Body: json.RawMessage(`{"x":1}`)},
			`POST /q "application/json" "application/json" "1" {"x":1}`},
		{"/", source.Call{Header: http.Header{"X": {"2"}, "Accept": {"text/plain"}}}, `GET / "" "text/plain" "2" `},
	} {
		v, err := openAt(t, base+tt.url, http.Header{"X": {"1"}})(t.Context(), tt.c)
		if err != nil || string(v) != `{"a" : 1.50}` {
			t.Errorf("%+v: %s, %v", tt.c, v, err)
		}
		if have := *got.Load(); have != tt.want {
			t.Errorf("request\n%s, want\n%s", have, tt.want)
		}
	}
}

func TestValues(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		want   string // the value, or part of the failure
	}{
		{204, "", "null"}, {200, "17", "17"}, {201, `"x"`, `"x"`}, {200, "[]", "[]"}, {200, "null", "null"},
		{200, "", "answer is empty"}, {200, "1 2", "answer is not JSON"}, {304, "", "HTTP 304 Not Modified"},
	} {
		v, err := openAt(t, sourcetest.Serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(tt.status)
			_, _ = io.WriteString(w, tt.body)
		}), nil)(t.Context(), source.Call{})
		have := string(v)
		if f, ok := errors.AsType[*source.Failure](err); ok {
			if have = f.Detail; f.Reason != event.BadResponse || !f.Counts {
				t.Errorf("%d %q: %v", tt.status, tt.body, f)
			}
		}
		if have != tt.want && !(err != nil && strings.Contains(have, tt.want)) {
			t.Errorf("%d %q: have %s, want %s", tt.status, tt.body, have, tt.want)
		}
	}
}

// An answer with an entity tag is confirmed by 304, call by call.
func TestETag(t *testing.T) {
	var version, whole, confirmed atomic.Int64
	version.Store(1)
	call := openAt(t, sourcetest.Serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/plain" {
			if r.Header.Get("If-None-Match") != "" {
				t.Error("asked for what was never named")
			}
			_, _ = io.WriteString(w, "0")
			return
		}
		tag := fmt.Sprintf(`W/"%s-%d"`, r.URL.Path, version.Load())
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			confirmed.Add(1)
			w.WriteHeader(http.StatusNotModified)
			return
		}
		whole.Add(1)
		_, _ = fmt.Fprintf(w, `{"path":%q,"version":%d}`, r.URL.Path, version.Load())
	}), nil)
	ask := func(path, want string) {
		t.Helper()
		if v, err := call(t.Context(), source.Call{Path: path}); err != nil || string(v) != want {
			t.Errorf("%s: %s, %v; want %s", path, v, err, want)
		}
	}
	for range 3 {
		ask("a", `{"path":"/a","version":1}`)
		ask("b", `{"path":"/b","version":1}`)
		ask("plain", `0`)
	}
	version.Store(2)
	ask("a", `{"path":"/a","version":2}`)
	ask("a", `{"path":"/a","version":2}`)
	if whole.Load() != 3 || confirmed.Load() != 5 {
		t.Errorf("%d whole answers and %d confirmations, want 3 and 5", whole.Load(), confirmed.Load())
	}
}

func TestETagsAreBounded(t *testing.T) {
	var e etags
	big := json.RawMessage(make([]byte, maxRemembered/2))
	for i := range 10 {
		e.put("", fmt.Sprint(i), remembered{etag: `"x"`, value: big})
	}
	if n := len(e.calls); n != 1 {
		t.Errorf("%d answers remembered, want 1", n)
	}
	e.put("", "0", remembered{etag: `"x"`, value: big}) // replaces itself
	e.put("", "1", remembered{})
	if e.get("", "0").etag == "" || e.get("", "1").etag != "" {
		t.Error("the first answer was forgotten")
	}
	e.put("", "0", remembered{})
	if e.size != 0 {
		t.Errorf("%d bytes of nothing", e.size)
	}
	// A poll whose call differs every time leaves one answer behind.
	for i := range 10 {
		e.put("poll", fmt.Sprint(i), remembered{etag: `"x"`, value: big[:10]})
	}
	if len(e.calls) != 1 || e.get("poll", "9").etag == "" || e.get("poll", "8").etag != "" || e.get("", "9").etag != "" {
		t.Errorf("%d answers remembered of a changing request", len(e.calls))
	}
}

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		c    source.Call
		want string // "" means no mistake
	}{
		{source.Call{}, ""},
		{source.Call{Method: "POST", Path: "/a/b%20c", Body: json.RawMessage(`1`)}, ""},
		{source.Call{Method: "get"}, "method"},
		{source.Call{Method: "system.status"}, "method"},
		{source.Call{Method: "HEAD"}, "method"},
		{source.Call{Params: json.RawMessage(`[]`)}, "params"},
		{source.Call{Path: "a?b"}, "path"},
		{source.Call{Path: "a/../b"}, "path"},
		{source.Call{Path: "a%zz"}, "path"},
	} {
		have := ""
		check(tt.c, func(key, problem, fix string) { have += key })
		if have != tt.want {
			t.Errorf("%+v: mistakes at %q, want %q", tt.c, have, tt.want)
		}
	}
}
