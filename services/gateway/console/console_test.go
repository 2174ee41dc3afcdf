package console

import (
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
)

func serve(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(Handler())
	t.Cleanup(s.Close)
	return s
}

func do(t *testing.T, method, url string, header http.Header) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

var (
	assetPath = regexp.MustCompile(`(?:src|href)="([^"#]+)"`)
	hashed    = regexp.MustCompile(`^assets/[a-z]+-[0-9a-f]{12}\.(js|css|svg)$`)
)

func TestIndex(t *testing.T) {
	s := serve(t)
	resp, body := do(t, http.MethodGet, s.URL+"/", nil)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET /: have status %d, want 200", resp.StatusCode)
	}
	for name, want := range map[string]string{
		"Content-Type":           "text/html; charset=utf-8",
		"Cache-Control":          "no-cache",
		"X-Content-Type-Options": "nosniff",
		"Referrer-Policy":        "no-referrer",
	} {
		if have := resp.Header.Get(name); have != want {
			t.Errorf("GET /: have %s %q, want %q", name, have, want)
		}
	}
	if !strings.Contains(body, "<title>Pollcast</title>") {
		t.Errorf("GET /: have no title in %.200q", body)
	}
}

func TestAssets(t *testing.T) {
	s := serve(t)
	_, index := do(t, http.MethodGet, s.URL+"/", nil)
	found := assetPath.FindAllStringSubmatch(index, -1)
	if len(found) != 3 {
		t.Fatalf("index.html: have %d assets %q, want a script, a style sheet and an icon", len(found), found)
	}
	types := map[string]string{
		".js":  "text/javascript; charset=utf-8",
		".css": "text/css; charset=utf-8",
		".svg": "image/svg+xml",
	}
	for _, m := range found {
		name := m[1]
		if !hashed.MatchString(name) {
			t.Errorf("%s: want a relative path with a hash, so that it may be kept for ever", name)
		}
		resp, body := do(t, http.MethodGet, s.URL+"/"+name, nil)
		if resp.StatusCode != http.StatusOK || body == "" {
			t.Errorf("GET /%s: have status %d and %d bytes, want 200 and content", name, resp.StatusCode, len(body))
		}
		if have, want := resp.Header.Get("Content-Type"), types[name[strings.LastIndex(name, "."):]]; have != want {
			t.Errorf("GET /%s: have Content-Type %q, want %q", name, have, want)
		}
		if have, want := resp.Header.Get("Cache-Control"), "public, max-age=31536000, immutable"; have != want {
			t.Errorf("GET /%s: have Cache-Control %q, want %q", name, have, want)
		}
	}
}

func TestPolicy(t *testing.T) {
	s := serve(t)
	for _, path := range []string{"/", "/nothing"} {
		resp, _ := do(t, http.MethodGet, s.URL+path, nil)
		have := resp.Header.Get("Content-Security-Policy")
		for _, want := range []string{
			"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'",
			"frame-ancestors 'none'", "require-trusted-types-for 'script'",
		} {
			if !strings.Contains(have+";", want+";") {
				t.Errorf("GET %s: have policy %q, want %q in it", path, have, want)
			}
		}
		if strings.Contains(have, "unsafe") {
			t.Errorf("GET %s: have policy %q, want nothing unsafe in it", path, have)
		}
	}
}

// The policy forbids inline script and style: a page that had one would break.
func TestNothingInline(t *testing.T) {
	_, index := do(t, http.MethodGet, serve(t).URL+"/", nil)
	for _, bad := range []*regexp.Regexp{
		regexp.MustCompile(`(?i)<style`),
		regexp.MustCompile(`(?i)\sstyle=`),
		regexp.MustCompile(`(?i)\son[a-z]+=`),
		regexp.MustCompile(`https?://`),
	} {
		if have := bad.FindString(index); have != "" {
			t.Errorf("index.html: have %q, want nothing that matches %s", have, bad)
		}
	}
	loaded := regexp.MustCompile(`<script [^>]*src="[^"]+"></script>`).FindAllString(index, -1)
	if have, want := strings.Count(index, "<script"), len(loaded); have != want {
		t.Errorf("index.html: have %d scripts of which %d are loaded, want all", have, want)
	}
}

func TestConditional(t *testing.T) {
	s := serve(t)
	first, _ := do(t, http.MethodGet, s.URL+"/", nil)
	etag := first.Header.Get("ETag")
	if etag == "" {
		t.Fatal("GET /: have no ETag")
	}
	again, body := do(t, http.MethodGet, s.URL+"/", http.Header{"If-None-Match": {etag}})
	if again.StatusCode != http.StatusNotModified || body != "" {
		t.Errorf("GET / with its ETag: have status %d and %d bytes, want 304 and none", again.StatusCode, len(body))
	}
	other, _ := do(t, http.MethodGet, s.URL+"/", http.Header{"If-None-Match": {`"other"`}})
	if other.StatusCode != http.StatusOK {
		t.Errorf("GET / with another ETag: have status %d, want 200", other.StatusCode)
	}
}

func TestMethodsAndUnknownPaths(t *testing.T) {
	s := serve(t)
	for _, tt := range []struct {
		method, path string
		want         int
	}{
		{http.MethodHead, "/", http.StatusOK},
		{http.MethodPost, "/", http.StatusMethodNotAllowed},
		{http.MethodGet, "/index.html", http.StatusNotFound},
		{http.MethodGet, "/assets/", http.StatusNotFound},
		{http.MethodGet, "/assets/main.js", http.StatusNotFound},
		{http.MethodGet, "/v1/unknown", http.StatusNotFound},
		{http.MethodGet, "/../console.go", http.StatusNotFound},
		{http.MethodPost, "/nothing", http.StatusNotFound},
	} {
		resp, body := do(t, tt.method, s.URL+tt.path, nil)
		if resp.StatusCode != tt.want {
			t.Errorf("%s %s: have status %d, want %d", tt.method, tt.path, resp.StatusCode, tt.want)
		}
		if tt.method == http.MethodHead && body != "" {
			t.Errorf("HEAD %s: have a body of %d bytes, want none", tt.path, len(body))
		}
		if resp.StatusCode == http.StatusMethodNotAllowed && resp.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s %s: have Allow %q, want GET, HEAD", tt.method, tt.path, resp.Header.Get("Allow"))
		}
	}
}

func TestLoadRefusesAWrongBuild(t *testing.T) {
	for name, tt := range map[string]struct {
		built fstest.MapFS
		want  string
	}{
		"no index":     {fstest.MapFS{"dist/assets/a.js": {}}, "no index.html"},
		"unknown type": {fstest.MapFS{"dist/index.html": {}, "dist/a.wasm": {}}, ".wasm"},
		"no dist":      {fstest.MapFS{}, "load console"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := load(tt.built); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("have error %v, want one that says %q", err, tt.want)
			}
		})
	}
}
