package source

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// connAge is how long at most connections are used again before new ones are
// made: an upstream that is asked every second would otherwise stay for ever
// with an address that its name has long left, and with a certificate that has
// expired meanwhile.
const connAge = 5 * time.Minute

// connections are those to one upstream. They are made when a call needs one,
// never before, so that an open circuit is silent.
type connections struct {
	endpoint  Endpoint
	transport *http.Transport
	dialer    net.Dialer
	made      atomic.Int64 // connections so far
	turn      atomic.Int64 // of the certificates
	renewAt   atomic.Int64 // Unix time, ns
	age       time.Duration
	last      atomic.Pointer[secureConn]
}

// secureConn is a connection over TLS on which nothing was answered yet.
type secureConn struct {
	*tls.Conn
	raw   *closable
	asked bool // for a client certificate
	shown bool
}

type closable struct {
	net.Conn
	closed atomic.Bool
}

func (c *closable) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

// newConnections takes the protocols to speak; nil for HTTP/1.1 and, over TLS,
// HTTP/2.
func newConnections(e Endpoint, protocols *http.Protocols) *connections {
	c := &connections{
		endpoint: e, age: connAge,
		// Timeouts are the call's: its context bounds every phase.
		dialer: net.Dialer{KeepAlive: 15 * time.Second, Resolver: e.Resolver},
	}
	settings, turn := e.TLS.Current()
	c.turn.Store(int64(turn))
	c.renewAt.Store(time.Now().Add(c.age).UnixNano())
	next := []string{"h2", "http/1.1"}
	if protocols != nil && !protocols.HTTP1() {
		next = next[:1]
	}
	c.transport = &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: c.dial,
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return c.dialTLS(ctx, network, address, next)
		},
		// For connections through a proxy: DialTLSContext is for the others.
		TLSClientConfig: &tls.Config{
			MinVersion: settings.MinVersion, ServerName: settings.ServerName, RootCAs: settings.RootCAs,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				now, _ := e.TLS.Current()
				if len(now.Certificates) == 0 {
					return &tls.Certificate{}, nil
				}
				return &now.Certificates[0], nil
			},
		},
		ForceAttemptHTTP2:      true,
		Protocols:              protocols,
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
	return c
}

func (c *connections) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := c.dialer.DialContext(ctx, network, address)
	if err == nil {
		c.made.Add(1)
	}
	return conn, err
}

// dialTLS connects with the certificates as they are now.
func (c *connections) dialTLS(ctx context.Context, network, address string, next []string) (net.Conn, error) {
	current, _ := c.endpoint.TLS.Current()
	settings := current.Clone()
	settings.NextProtos = next
	if settings.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		settings.ServerName = host
	}
	conn, err := c.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	last := &secureConn{raw: &closable{Conn: conn}}
	settings.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		last.asked = true
		for i := range settings.Certificates {
			if own := &settings.Certificates[i]; info.SupportsCertificate(own) == nil {
				last.shown = true
				return own, nil
			}
		}
		return &tls.Certificate{}, nil
	}
	last.Conn = tls.Client(last.raw, settings)
	if err := last.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	c.last.Store(last)
	return last.Conn, nil
}

// answered says that the upstream talks to us.
func (c *connections) answered() {
	if c.last.Load() != nil {
		c.last.Store(nil)
	}
}

// verdict is err, and what the upstream said of our certificate if that may be
// why. With TLS 1.3 the client has ended its handshake before the upstream
// judges, so that a refusal looks like any broken connection; net/http does
// not tell, a closed tls.Conn may.
func (c *connections) verdict(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // that quotes the URL, which may hold a key
	}
	last := c.last.Swap(nil)
	if last == nil || !last.asked || isTimeout(err) || certificateDetail(err) != "" {
		return err
	}
	if last.raw.closed.Load() {
		if _, said := last.Read(make([]byte, 1)); said != nil && certificateDetail(said) != "" {
			return said
		}
	}
	return &afterAsking{err, last.shown}
}

// afterAsking is the end of a connection on which nothing was answered after
// the upstream had asked for a client certificate.
type afterAsking struct {
	error
	shown bool
}

func (e *afterAsking) Unwrap() error { return e.error }

func (e *afterAsking) detail() string {
	got := "none"
	if e.shown {
		got = "ours"
	}
	return connectionDetail(e.error) + ", after the upstream had asked for a client certificate and got " + got
}

// renew lets kept connections go when they are old, or were made with other
// certificates than those of now.
func (c *connections) renew(now time.Time) {
	_, turn := c.endpoint.TLS.Current()
	old, due := c.turn.Swap(int64(turn)) != int64(turn), c.renewAt.Load()
	if old || now.UnixNano() >= due && c.renewAt.CompareAndSwap(due, now.Add(c.age).UnixNano()) {
		c.transport.CloseIdleConnections()
	}
}

// failed lets kept connections go after a failure of one: the next call looks
// the name up again, and does not meet the other end of a broken connection.
func (c *connections) failed() { c.transport.CloseIdleConnections() }
