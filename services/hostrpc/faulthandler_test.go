package hostrpc

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

func TestFaultsHandler(t *testing.T) {
	s := start(t, faultsAllowed())
	h := s.FaultsHandler()
	call := func(method, body string, header ...string) (int, string, http.Header) {
		r := httptest.NewRequest(method, "http://gateway.example/demo/faults", strings.NewReader(body))
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code, w.Body.String(), w.Header()
	}
	const kind, asJSON = "Content-Type", "application/json"

	status, text, header := call("GET", "")
	want := `{"allowed":true,"methods":["*","system.status","storage.list","network.list","process.top",` +
		`"system.time","rpc.methods"],` +
		`"kinds":["slow","error","hang","garbage","http500","none"],"active":[]}` + "\n"
	if status != 200 || text != want || header.Get(kind) != asJSON || header.Get("Cache-Control") != "no-store" {
		t.Errorf("have %d %v %s\nwant %s", status, header, text, want)
	}
	status, text, _ = call("POST", `{"method":"system.status","kind":"slow","delayMs":50}`, kind, asJSON)
	if status != 200 || !strings.Contains(text, `"active":[{"method":"system.status","kind":"slow","delayMs":50}]`) {
		t.Errorf("have %d %s, want the fault in the list", status, text)
	}
	set := []Fault{{"system.status", FaultSlow, 50}}

	for _, c := range []struct {
		name, method, body string
		header             []string
		want               int
		code               string
	}{
		{"no type", "POST", `{}`, nil, 415, "unsupported_media_type"},
		{"form", "POST", `{}`, []string{kind, "text/plain"}, 415, "unsupported_media_type"},
		{"delete without type", "DELETE", ``, nil, 415, "unsupported_media_type"},
		{"cross site", "POST", `{"method":"*","kind":"error"}`, []string{kind, asJSON, "Sec-Fetch-Site", "cross-site"}, 403,
			"cross_origin"},
		{"same site, other origin", "DELETE", ``, []string{kind, asJSON, "Sec-Fetch-Site", "same-site"}, 403,
			"cross_origin"},
		{"other origin", "DELETE", ``, []string{kind, asJSON, "Origin", "https://evil.example"}, 403, "cross_origin"},
		{"put", "PUT", `{}`, []string{kind, asJSON}, 405, "method_not_allowed"},
		{"empty", "POST", ``, []string{kind, asJSON}, 400, "bad_fault"},
		{"two values", "POST", `{"method":"*","kind":"error"}{}`, []string{kind, asJSON}, 400, "bad_fault"},
		{"unknown key", "POST", `{"method":"*","kind":"error","delay":1}`, []string{kind, asJSON}, 400, "bad_fault"},
		{"unknown method", "POST", `{"method":"x","kind":"error"}`, []string{kind, asJSON}, 400, "bad_fault"},
		{"unknown kind", "POST", `{"method":"*","kind":"fire"}`, []string{kind, asJSON}, 400, "bad_fault"},
		{"too large", "POST", `{"method":"` + strings.Repeat("x", 5000) + `"}`, []string{kind, asJSON}, 400, "bad_fault"},
	} {
		status, text, header := call(c.method, c.body, c.header...)
		var answer struct {
			Error struct{ Code, Message string }
		}
		if err := json.Unmarshal([]byte(text), &answer); err != nil || status != c.want || answer.Error.Code != c.code ||
			answer.Error.Message == "" {
			t.Errorf("%s: have %d %s, want %d %s", c.name, status, text, c.want, c.code)
		}
		if status == 405 && header.Get("Allow") == "" {
			t.Errorf("%s: no Allow", c.name)
		}
	}
	if have := s.Faults().List(); !slices.Equal(have, set) {
		t.Errorf("refused requests changed the faults to %v", have)
	}

	status, text, _ = call("DELETE", "", kind, asJSON, "Origin", "http://gateway.example", "Sec-Fetch-Site",
		"same-origin")
	if status != 200 || !strings.Contains(text, `"active":[]`) || len(s.Faults().List()) != 0 {
		t.Errorf("have %d %s, want no fault left", status, text)
	}
}

func TestFaultsHandlerNotAllowed(t *testing.T) {
	h := start(t, Options{}).FaultsHandler()
	for method, want := range map[string]int{"GET": 200, "POST": 403, "DELETE": 403} {
		r := httptest.NewRequest(method, "/demo/faults", strings.NewReader(`{"method":"*","kind":"error"}`))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s: have %d %s, want %d", method, w.Code, w.Body, want)
		}
		if method == "GET" && !strings.Contains(w.Body.String(), `"allowed":false`) {
			t.Errorf("have %s, want allowed false", w.Body)
		}
	}
}
