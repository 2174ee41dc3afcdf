package source

import (
	"context"
	"net/http"
	"net/url"
	"testing"
)

// Through is through.
var Through = through

// GetThrough makes a GET of an endpoint through a proxy.
func GetThrough(t *testing.T, e Endpoint, proxy *url.URL) (string, error) {
	t.Helper()
	h := openHTTP(e)
	t.Cleanup(h.close)
	h.transport.Proxy = http.ProxyURL(proxy)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.URL, nil)
	if err != nil {
		return "", err
	}
	a, err := h.do(ctx, req, nil, e.MaxAnswer)
	if err != nil {
		return "", err
	}
	return string(a.body), nil
}
