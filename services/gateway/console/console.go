package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed dist
var dist embed.FS

// policy lets the page load its own assets and talk to its own gateway, and has
// the browser refuse to make elements from text, whatever the script does: the
// page shows what upstreams answer.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
	"require-trusted-types-for 'script'; trusted-types 'none'"

const (
	// Assets carry a hash of their content in their name.
	cacheForever = "public, max-age=31536000, immutable"
	// The index names the assets: a browser asks whether it is still the same.
	cacheNever = "no-cache"
)

// contentTypes are the types of what dist holds. The host's own table is not
// asked: it differs from machine to machine.
var contentTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".svg":  "image/svg+xml",
}

// asset is a file of dist as it is served.
type asset struct {
	name, contentType, etag, cache string
	content                        []byte
}

// Handler serves the console: the page at /, its assets under /assets/, and 404
// for everything else. It answers GET and HEAD.
func Handler() http.Handler {
	assets, err := load(dist)
	if err != nil {
		// The files are in the binary: a wrong build fails in every test.
		panic(err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		a, ok := assets[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		h.Set("Content-Type", a.contentType)
		h.Set("Cache-Control", a.cache)
		h.Set("ETag", a.etag)
		http.ServeContent(w, r, a.name, time.Time{}, bytes.NewReader(a.content))
	})
}

// load reads the built console and maps each URL path to its asset.
func load(built fs.FS) (map[string]asset, error) {
	assets := make(map[string]asset)
	err := fs.WalkDir(built, "dist", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(built, name)
		if err != nil {
			return err
		}
		contentType, ok := contentTypes[path.Ext(name)]
		if !ok {
			return fmt.Errorf("%s: no content type for %q; add it to contentTypes", name, path.Ext(name))
		}
		sum := sha256.Sum256(content)
		a := asset{
			name:        path.Base(name),
			contentType: contentType,
			etag:        `"` + hex.EncodeToString(sum[:12]) + `"`,
			cache:       cacheForever,
			content:     content,
		}
		url := strings.TrimPrefix(name, "dist")
		if url == "/index.html" {
			url, a.cache = "/", cacheNever
		}
		assets[url] = a
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load console: %w", err)
	}
	if _, ok := assets["/"]; !ok {
		return nil, fmt.Errorf("load console: dist holds no index.html; run npm run build")
	}
	return assets, nil
}
