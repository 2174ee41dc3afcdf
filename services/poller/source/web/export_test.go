package web

import (
	"context"
	"net/http"
	"net/url"
	"testing"

	"github.com/pollcast/pollcast/services/poller/source"
)

// Through is through, for the external tests.
var Through = through

// GetThrough makes a GET of an endpoint through a proxy.
func GetThrough(t *testing.T, e source.Endpoint, proxy *url.URL) (string, error) {
	t.Helper()
	h := New(e)
	t.Cleanup(h.Close)
	h.conns.transport.Proxy = http.ProxyURL(proxy)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	return get(ctx, h)
}
