package source_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/sourcetest"
)

// Through a proxy, too, the certificates are those of the settings, and HTTP/2 is
// spoken.
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
	v, err := source.GetThrough(t, source.Endpoint{
		URL: "https://upstream.test/", MaxAnswer: 1 << 10,
		TLS: certificates(t, source.CertificateFiles{CA: authority.File(), Cert: cert, Key: key}),
	}, address)
	if err != nil || !strings.Contains(v, "HTTP/2.0 poller-1") || asked != "CONNECT upstream.test:443" {
		t.Errorf("%s, %v; the proxy was asked %q", v, err, asked)
	}
}
