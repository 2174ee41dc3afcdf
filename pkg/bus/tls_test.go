package bus_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
)

// authority issues certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "Test Authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = a.sign(template, nil)
	return a
}

// sign signs a certificate with the authority's key; its own if it has none yet.
func (a *authority) sign(c *x509.Certificate, parent *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	signer := a.key
	if parent == nil {
		parent, signer = c, key
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// issue writes a certificate for a host, its key and the authority's certificate
// into a directory.
func (a *authority) issue(dir, host string) {
	a.t.Helper()
	c := &x509.Certificate{
		Subject:     pkix.Name{CommonName: host},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		c.IPAddresses = []net.IP{ip}
	} else {
		c.DNSNames = []string{host}
	}
	cert, key := a.sign(c, a.cert)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for name, b := range map[string]*pem.Block{
		"ca.pem":   {Type: "CERTIFICATE", Bytes: a.cert.Raw},
		"cert.pem": {Type: "CERTIFICATE", Bytes: cert.Raw},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: der},
	} {
		write(a.t, filepath.Join(dir, name), string(pem.EncodeToMemory(b)))
	}
}

// tlsOf are settings of the files in a directory.
func tlsOf(dir string) bus.TLS {
	in := func(name string) string { return filepath.Join(dir, name) }
	return bus.TLS{CA: in("ca.pem"), Cert: in("cert.pem"), Key: in("key.pem")}
}

// serverTLS has a server require certificates of the authority in a directory.
func serverTLS(t *testing.T, dir string) *tls.Config {
	t.Helper()
	c, err := server.GenTLSConfig(&server.TLSConfigOpts{
		CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"),
		CaFile: filepath.Join(dir, "ca.pem"), Verify: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A server with a certificate of a private authority, which wants one of the client.
// The files are read again when the connection is made again.
func TestTLS(t *testing.T) {
	t.Parallel()
	at, us := t.TempDir(), t.TempDir()
	first := newAuthority(t)
	first.issue(at, "nats.test")
	first.issue(us, "pollcast.test")
	s := bustest.Start(t)
	s.Change(func(o *server.Options) { o.TLSConfig, o.TLSVerify, o.TLSTimeout = serverTLS(t, at), true, 5 })
	c := s.Config()
	c.TLS = tlsOf(us)
	c.TLS.ServerName = "nats.test"
	c.Check(func(path, problem, fix string) { t.Errorf("%s: %s", path, problem) })
	conn, _ := connect(t, c)
	eventually(t, "connected", conn.IsConnected)
	if state, err := conn.NATS().TLSConnectionState(); err != nil || state.ServerName != "nats.test" {
		t.Errorf("the connection's TLS: %+v, %v", state.ServerName, err)
	}

	for what, change := range map[string]func(*bus.TLS){
		"certificate required":               func(s *bus.TLS) { s.Cert, s.Key = "", "" },
		"certificate signed by unknown auth": func(s *bus.TLS) { s.CA = "" },
		"not nats.test2":                     func(s *bus.TLS) { s.ServerName = "nats.test2" },
		"127.0.0.1 because":                  func(s *bus.TLS) { s.ServerName = "" },
	} {
		other := c
		change(&other.TLS)
		conn, _ := connect(t, other)
		eventually(t, what, func() bool { err := conn.Err(); return err != nil && strings.Contains(err.Error(), what) })
		conn.Close()
	}

	second := newAuthority(t)
	second.issue(at, "nats.test")
	second.issue(us, "pollcast.test")
	s.Change(func(o *server.Options) { o.TLSConfig = serverTLS(t, at) })
	eventually(t, "connected with the new certificates", conn.IsConnected)
}

// Settings of TLS forbid a connection without it, and the server's handshake may
// come first.
func TestTLSIsRequired(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	newAuthority(t).issue(dir, "127.0.0.1")
	s := bustest.Start(t)
	c := s.Config()
	c.TLS = tlsOf(dir)
	conn, _ := connect(t, c)
	eventually(t, "refused", func() bool {
		err := conn.Err()
		return err != nil && strings.Contains(err.Error(), "secure connection not available")
	})
	s.Change(func(o *server.Options) {
		o.TLSConfig, o.TLSVerify, o.TLSTimeout, o.TLSHandshakeFirst = serverTLS(t, dir), true, 5, true
	})
	c.TLS.HandshakeFirst = true
	first, _ := connect(t, c)
	eventually(t, "connected", first.IsConnected)
}

// Mistakes in the settings of TLS and JetStream are reported at start.
func TestCheckTLSAndJetStream(t *testing.T) {
	dir := t.TempDir()
	newAuthority(t).issue(dir, "h")
	good := tlsOf(dir)
	write(t, filepath.Join(dir, "text"), "text")
	for _, tt := range []struct {
		change func(*bus.Config)
		want   string // "" means no mistake
	}{
		{func(c *bus.Config) { c.TLS = good }, ""},
		{func(c *bus.Config) { c.TLS, c.URL = good, "ws://h" }, "tls: a server in url is asked over ws://"},
		{func(c *bus.Config) { c.TLS.CA = "/nowhere" }, "tls.ca: /nowhere: no such file"},
		{func(c *bus.Config) { c.TLS.CA = filepath.Join(dir, "text") }, "it holds no certificate"},
		{func(c *bus.Config) { c.TLS.Cert = good.Cert }, "tls.key: the key of the certificate is missing"},
		{func(c *bus.Config) { c.TLS.Key = good.Key }, "tls.cert: the certificate of the key is missing"},
		{func(c *bus.Config) { c.TLS.Cert, c.TLS.Key = good.Cert, good.Cert }, "tls.cert: "},
		{func(c *bus.Config) { c.TLS.ServerName = "tls://h" }, "tls.serverName: it is no host name"},
		{func(c *bus.Config) { c.JetStream.Domain = "hub" }, ""},
		{func(c *bus.Config) { c.JetStream.APIPrefix = "js.hub" }, ""},
		{func(c *bus.Config) { c.JetStream = bus.JetStream{Domain: "a", APIPrefix: "b"} }, "jetstream: both"},
		{func(c *bus.Config) { c.JetStream.Domain = "a.b" }, "jetstream.domain: it is no name"},
		{func(c *bus.Config) { c.JetStream.APIPrefix = "a.>" }, "jetstream.apiPrefix: it is no subject"},
		{func(c *bus.Config) { c.JetStream.APIPrefix = "a." }, "without the dot"},
	} {
		c, report := bus.DefaultConfig(), ""
		tt.change(&c)
		c.Check(func(path, problem, fix string) { report += path + ": " + problem + "; " + fix + "\n" })
		if tt.want == "" && report != "" || !strings.Contains(report, tt.want) {
			t.Errorf("the check reports %q, want %q", report, tt.want)
		}
	}
}
