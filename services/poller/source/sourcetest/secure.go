package sourcetest

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
)

// SecureServer answers every JSON-RPC call, over TLS, with the HTTP version of
// the request and the name of the client's certificate.
type SecureServer struct {
	*httptest.Server
	show  atomic.Pointer[tls.Certificate]
	conns atomic.Int64
}

// NewSecureServer starts a server with a certificate. change, if set, may change
// its settings. It is closed when the test ends.
func NewSecureServer(t testing.TB, cert Issued, change func(*tls.Config)) *SecureServer {
	t.Helper()
	s := new(SecureServer)
	s.Show(cert)
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(answerSecure))
	settings := &tls.Config{NextProtos: []string{"h2", "http/1.1"}}
	if change != nil {
		change(settings)
	}
	s.TLS, s.EnableHTTP2 = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		s.conns.Add(1)
		c := settings.Clone()
		c.Certificates = []tls.Certificate{*s.show.Load()}
		return c, nil
	}}, true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// Show changes the certificate for connections from now on.
func (s *SecureServer) Show(cert Issued) { s.show.Store(&cert.Certificate) }

// Conns returns the number of connections so far.
func (s *SecureServer) Conns() int64 { return s.conns.Load() }

func answerSecure(w http.ResponseWriter, r *http.Request) {
	var q struct{ ID int }
	_ = json.NewDecoder(r.Body).Decode(&q)
	client := ""
	if len(r.TLS.PeerCertificates) > 0 {
		client = r.TLS.PeerCertificates[0].DNSNames[0]
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"id":%d,"result":"%s %s"}`, q.ID, r.Proto, client)
}

// Certificates reads certificate files.
func Certificates(t testing.TB, files source.CertificateFiles) *source.Certificates {
	t.Helper()
	c, err := source.NewCertificates(files, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// WantFailure compares a failure that the breaker counts. detail may be several
// texts with | between them, of which one is enough: which error a closing socket
// reports first is chance.
func WantFailure(t testing.TB, err error, reason event.Reason, detail string) {
	t.Helper()
	f, ok := errors.AsType[*source.Failure](err)
	contains := func(s string) bool { return strings.Contains(f.Detail, s) }
	if !ok || f.Reason != reason || !f.Counts || !slices.ContainsFunc(strings.Split(detail, "|"), contains) {
		t.Errorf("have %v\nwant %s: %s", err, reason, detail)
	}
}
