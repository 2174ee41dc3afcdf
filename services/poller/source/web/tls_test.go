package web_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/jsonrpc"
	"github.com/pollcast/pollcast/services/poller/source/sourcetest"
)

func openRPC(t *testing.T, e source.Endpoint) func() (string, error) {
	t.Helper()
	if e.MaxAnswer == 0 {
		e.MaxAnswer = 64 << 10
	}
	call, free, err := jsonrpc.Driver.Open(e)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(free)
	return func() (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		v, err := call(ctx, source.Call{Method: "m"})
		return string(v), err
	}
}

// HTTP/2 is used where the upstream can, and a client certificate is sent where
// the upstream asks for one.
func TestMutualTLS(t *testing.T) {
	authority := sourcetest.NewAuthority(t, "test authority")
	s := sourcetest.NewSecureServer(t, authority.Now("127.0.0.1"), func(c *tls.Config) {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, authority.Pool()
	})
	cert, key := authority.Now("poller-1").Files()
	ask := openRPC(t, source.Endpoint{URL: s.URL,
		TLS: sourcetest.Certificates(t, source.CertificateFiles{CA: authority.File(), Cert: cert, Key: key})})
	for range 3 {
		if v, err := ask(); v != `"HTTP/2.0 poller-1"` {
			t.Errorf("%s, %v", v, err)
		}
	}
	if n := s.Conns(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}

	// A certificate of an authority that the upstream does not name is not sent.
	cert, key = sourcetest.NewAuthority(t, "another").Now("poller-1").Files()
	for _, files := range []source.CertificateFiles{{CA: authority.File()},
		{CA: authority.File(), Cert: cert, Key: key}} {
		_, err := openRPC(t, source.Endpoint{URL: s.URL, TLS: sourcetest.Certificates(t, files)})()
		sourcetest.WantFailure(t, err, event.UpstreamError,
			"TLS: the upstream wants a client certificate of an authority that it trusts|a client certificate and got none")
	}
	s = sourcetest.NewSecureServer(t, authority.Now("127.0.0.1"), func(c *tls.Config) {
		c.ClientAuth = tls.RequireAnyClientCert
		c.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { return errors.New("not you") }
	})
	_, err := openRPC(t, source.Endpoint{URL: s.URL,
		TLS: sourcetest.Certificates(t, source.CertificateFiles{CA: authority.File(), Cert: cert, Key: key})})()
	sourcetest.WantFailure(t, err, event.UpstreamError,
		"TLS: the upstream does not accept our certificate (bad certificate)|asked for a client certificate and got ours")
}

// The failure names what is wrong with an upstream's certificate, with its date.
func TestBadServerCertificates(t *testing.T) {
	authority := sourcetest.NewAuthority(t, "test authority")
	day := 24 * time.Hour
	ended, begins := time.Now().Add(-day).Truncate(time.Minute), time.Now().Add(day).Truncate(time.Minute)
	const written = "2006-01-02 15:04 UTC"
	for _, tt := range []struct {
		name   string
		cert   sourcetest.Issued
		server string
		want   string
	}{
		{"good", authority.Now("127.0.0.1"), "", ""},
		{"expired", authority.Issue(ended.Add(-day), ended, "127.0.0.1"), "", "TLS: the upstream's certificate expired on " +
			ended.UTC().Format(written)},
		{"not yet", authority.Issue(begins, begins.Add(day), "127.0.0.1"), "",
			"TLS: the upstream's certificate is not valid before " + begins.UTC().Format(written)},
		{"another host", authority.Now("a.example", "b.example"), "",
			"TLS: the upstream's certificate is for a.example, b.example, not for 127.0.0.1"},
		{"another address", authority.Now("127.0.0.2"), "",
			"TLS: the upstream's certificate is for 127.0.0.2, not for 127.0.0.1"},
		{"another name", authority.Now("a.example"), "b.example", "is for a.example, not for b.example"},
		{"the name", authority.Now("a.example"), "a.example", ""},
		{"unknown", sourcetest.NewAuthority(t, "somebody").Now("127.0.0.1"), "",
			`TLS: the upstream's certificate is signed by an unknown authority, "CN=somebody"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := sourcetest.NewSecureServer(t, tt.cert, nil)
			v, err := openRPC(t, source.Endpoint{URL: s.URL,
				TLS: sourcetest.Certificates(t, source.CertificateFiles{CA: authority.File(), ServerName: tt.server})})()
			if tt.want == "" {
				if err != nil {
					t.Errorf("%s, %v", v, err)
				}
				return
			}
			sourcetest.WantFailure(t, err, event.UpstreamError, tt.want)
		})
	}
	s := sourcetest.NewSecureServer(t, authority.Now("127.0.0.1"),
		func(c *tls.Config) { c.MaxVersion = tls.VersionTLS11; c.MinVersion = tls.VersionTLS10 })
	_, err := openRPC(t, source.Endpoint{URL: s.URL,
		TLS: sourcetest.Certificates(t, source.CertificateFiles{CA: authority.File()})})()
	sourcetest.WantFailure(t, err, event.UpstreamError, "TLS: the upstream refuses: protocol version not supported")
}

// Certificates are replaced under a running poller: the client certificate, the
// authority, and a file that is only half written.
func TestRotation(t *testing.T) {
	old, young := sourcetest.NewAuthority(t, "old"), sourcetest.NewAuthority(t, "young")
	s := sourcetest.NewSecureServer(t, old.Now("127.0.0.1"), func(c *tls.Config) {
		c.ClientAuth = tls.RequireAnyClientCert
	})
	ca := old.File()
	cert, key := old.Now("first").Files()
	var notices atomic.Int64
	certs, err := source.NewCertificates(source.CertificateFiles{CA: ca, Cert: cert, Key: key},
		func(string, error) { notices.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	ask := openRPC(t, source.Endpoint{URL: s.URL, TLS: certs})
	until := func(want string) {
		t.Helper()
		for limit := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			v, err := ask()
			if strings.Contains(v+fmt.Sprint(err), want) {
				return
			}
			if time.Now().After(limit) {
				t.Fatalf("%s, %v; want %s", v, err, want)
			}
		}
	}
	put := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	until("HTTP/2.0 first")
	second := old.Now("second-of-its-name")
	put(cert, second.CertPEM) // the key does not match yet
	for notices.Load() == 0 {
		until("HTTP/2.0 first")
	}
	put(key, append(second.Key, '\n'))
	until("HTTP/2.0 second-of-its-name")

	fresh := young.Now("127.0.0.1")
	s.Show(fresh)
	pem, err := os.ReadFile(young.File())
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	put(ca, append(before, pem...))
	conns := s.Conns()
	until("HTTP/2.0 second-of-its-name")
	for s.Conns() == conns {
		until("HTTP/2.0 second-of-its-name")
	}
	put(ca, before)
	until("unknown authority")
}
