package grpc

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/grpc/grpctest"
	"github.com/pollcast/pollcast/services/poller/source/sourcetest"
	"google.golang.org/grpc/credentials"
)

func TestGRPCOverTLS(t *testing.T) {
	authority := sourcetest.NewAuthority(t, "test authority")
	own := authority.Now("127.0.0.1")
	cert, key := authority.Now("poller-1").Files()
	secure := grpctest.New(t, same, grpctest.Secured(credentials.NewServerTLSFromCert(&own.Certificate)))
	plain := grpctest.New(t, same)
	certs := sourcetest.Certificates(t, source.CertificateFiles{CA: authority.File(), Cert: cert, Key: key})
	if v, err := openAt(t, source.Endpoint{URL: "grpcs://" + secure.Addr, TLS: certs})(get, plenty); err != nil {
		t.Errorf("%s, %v", v, err)
	}
	_, err := openAt(t, source.Endpoint{URL: "grpcs://" + secure.Addr})(get, plenty)
	sourcetest.WantFailure(t, err, event.UpstreamError,
		"TLS: the upstream's certificate is signed by an unknown authority")
	_, err = openAt(t, source.Endpoint{URL: "grpcs://" + plain.Addr, TLS: certs})(get, plenty)
	sourcetest.WantFailure(t, err, event.BadResponse, "upstream does not speak TLS")
	_, err = openAt(t, source.Endpoint{URL: "grpc://" + secure.Addr})(get, plenty)
	if f, ok := errors.AsType[*source.Failure](err); !ok || !f.Counts || !strings.HasPrefix(f.Detail, "connection ") &&
		f.Detail != "answer is not HTTP/2" {
		t.Errorf("plain to TLS: %v", err)
	}
}

// A proxy before a gRPC server may answer in its own way.
func TestGRPCBehindProxies(t *testing.T) {
	for _, tt := range []struct {
		name   string
		handle http.HandlerFunc
		reason event.Reason
		detail string
	}{
		{"503", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, event.UpstreamError,
			"HTTP 503 Service Unavailable"},
		{"302", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://login.example/?x=1", http.StatusFound)
		}, event.BadResponse, "this one leads to https://login.example"},
		{"HTML", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, event.BadResponse,
			"answer is HTML, not gRPC"},
		{"JSON", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, "{}")
		}, event.BadResponse, `answer is not gRPC, but "application/json"`},
		{"no status", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			_, _ = io.WriteString(w, "\x00\x00\x00\x00\x00")
		}, event.BadResponse, "answer breaks the rules of gRPC: "},
		{"half", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			_, _ = io.WriteString(w, "\x00\x00\x00\x01\x00abc")
		}, event.BadResponse, "answer breaks the rules of gRPC: "},
		{"reset", func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }, event.UpstreamError,
			"upstream reset the call: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			p := new(http.Protocols)
			p.SetUnencryptedHTTP2(true)
			srv := &http.Server{Protocols: p, Handler: tt.handle}
			var serving sync.WaitGroup
			serving.Go(func() { _ = srv.Serve(ln) })
			t.Cleanup(func() { _ = srv.Close(); serving.Wait() })
			// The descriptor set makes the call the first request.
			_, err = openAt(t, source.Endpoint{URL: "grpc://" + ln.Addr().String(),
				Descriptors: writeSet(t, grpctest.Order, grpctest.Shop)})(get, plenty)
			sourcetest.WantFailure(t, err, tt.reason, tt.detail)
		})
	}
}

// A connection is given up when its other end is gone without closing it.
func TestGRPCBlackHole(t *testing.T) {
	s := grpctest.New(t, same)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var silent atomic.Bool // the first connection
	var n atomic.Int64
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			first := n.Add(1) == 1
			to, err := net.Dial("tcp", s.Addr)
			if err != nil {
				_ = c.Close()
				return
			}
			pass := func(dst, src net.Conn) {
				defer dst.Close()
				buf := make([]byte, 32<<10)
				for {
					m, err := src.Read(buf)
					if err != nil {
						return
					}
					if first && silent.Load() {
						continue
					}
					if _, err := dst.Write(buf[:m]); err != nil {
						return
					}
				}
			}
			conns.Go(func() { pass(to, c) })
			conns.Go(func() { pass(c, to) })
		}
	})
	ask := openAt(t, source.Endpoint{URL: "grpc://" + ln.Addr().String()})
	t.Cleanup(func() { _ = ln.Close(); s.GRPC.Stop() })
	if _, err := ask(get, plenty); err != nil {
		t.Fatal(err)
	}
	silent.Store(true)
	start := time.Now()
	for {
		v, err := ask(get, sourcetest.Brief)
		if err == nil {
			break
		}
		sourcetest.WantFailure(t, err, event.Timeout, "no answer within ")
		if time.Since(start) > plenty {
			t.Fatalf("%s, %v: still the dead connection", v, err)
		}
	}
	if n.Load() < 2 {
		t.Error("no other connection was made")
	}
}
