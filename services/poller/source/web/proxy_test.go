package web_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/sourcetest"
	"github.com/pollcast/pollcast/services/poller/source/web"
)

// Connections through a proxy use the certificates of the settings and HTTP/2.
func TestProxy(t *testing.T) {
	authority := sourcetest.NewAuthority(t, "test authority")
	s := sourcetest.NewSecureServer(t, authority.Now("upstream.test"), func(c *tls.Config) {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, authority.Pool()
	})
	var asked string
	var pipes sync.WaitGroup
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.Method + " " + r.Host
		to, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		from, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		pipe := func(dst, src net.Conn) {
			_, _ = io.Copy(dst, src)
			_ = dst.Close()
		}
		pipes.Go(func() { pipe(to, from) })
		pipes.Go(func() { pipe(from, to) })
	}))
	t.Cleanup(func() { pipes.Wait(); proxy.Close() })
	address, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := authority.Now("poller-1").Files()
	v, err := web.GetThrough(t, source.Endpoint{
		URL: "https://upstream.test/", MaxAnswer: 1 << 10,
		TLS: sourcetest.Certificates(t, source.CertificateFiles{CA: authority.File(), Cert: cert, Key: key}),
	}, address)
	if err != nil || !strings.Contains(v, "HTTP/2.0 poller-1") || asked != "CONNECT upstream.test:443" {
		t.Errorf("%s, %v; the proxy was asked %q", v, err, asked)
	}
}

// A failure at the proxy is reported as the proxy's, without the parts of its
// address.
func TestProxyFails(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	closed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter,
		_ *http.Request) {
		w.WriteHeader(http.StatusProxyAuthRequired)
	}))
	t.Cleanup(closed.Close)
	for _, tt := range []struct{ proxy, upstream, want string }{
		{gone.URL, "http://upstream.test/", "the proxy: connection refused"},
		{gone.URL, "https://upstream.test/", "the proxy: connection refused"},
		{closed.URL, "https://upstream.test/", "the proxy answers HTTP 407 Proxy Authentication Required"},
	} {
		address, err := url.Parse(tt.proxy)
		if err != nil {
			t.Fatal(err)
		}
		_, err = web.GetThrough(t, source.Endpoint{URL: tt.upstream, MaxAnswer: 1 << 10}, address)
		sourcetest.WantFailure(t, err, event.UpstreamError, tt.want)
	}
	_, err := web.Through(func(*http.Request) (*url.URL, error) {
		return nil, errors.New(`invalid proxy address "http://user:sesame%zz@proxy:3128": parse: invalid URL escape "%zz"`)
	})(nil)
	if err == nil || strings.Contains(err.Error(), "sesame") {
		t.Errorf("have %v", err)
	}
}
