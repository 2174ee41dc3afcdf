package web

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/services/poller/source"
)

// connAge is the age at which kept connections are replaced. Without it, an
// upstream that is asked every second would keep a connection for ever: to an
// address that its name has left, with a certificate that has expired.
const connAge = 5 * time.Minute

// connections are the connections to one upstream. They are made when a call
// needs one and never before: an upstream whose circuit is open receives nothing.
type connections struct {
	endpoint  source.Endpoint
	transport *http.Transport
	dialer    net.Dialer
	made      atomic.Int64 // connections so far
	changes   atomic.Int64 // of the certificates when the connections were made
	renewAt   atomic.Int64 // when the kept connections are old; Unix time, ns
	age       time.Duration
	plain2    bool        // speaks HTTP/2 without TLS
	alien     atomic.Bool // the other end of the last connection does not speak HTTP/2
	last      atomic.Pointer[secureConn]

	mu       sync.Mutex
	open     map[*tracked]struct{}
	suspects atomic.Bool // open holds a suspect
}

// secureConn is a connection over TLS on which nothing was answered yet.
type secureConn struct {
	*tls.Conn
	raw   *tracked
	asked bool // the upstream asked for a client certificate
	shown bool // and got one
}

// tracked is a connection that knows when it last received something.
type tracked struct {
	net.Conn
	owner  *connections
	begun  bool         // the reader has received something; only the reader uses it
	heard  atomic.Int64 // when something was last received; Unix time, ns
	closed atomic.Bool
	// The mutex of owner guards these two.
	shared  bool  // several calls use it at once, as in HTTP/2
	suspect int64 // since when it is suspected to be dead; Unix time, ns; 0: it is not
}

// frameSettings is the type of the frame that begins HTTP/2 (RFC 9113, 3.4). It
// is in the frame's fourth byte.
const frameSettings = 4

func (c *tracked) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.heard.Store(time.Now().UnixNano())
		if !c.begun {
			c.begun = true
			c.owner.alien.Store(c.owner.plain2 && (n < 4 || p[3] != frameSettings))
		}
	}
	return n, err
}

func (c *tracked) Close() error {
	if !c.closed.Swap(true) {
		c.owner.mu.Lock()
		delete(c.owner.open, c)
		c.owner.mu.Unlock()
	}
	return c.Conn.Close()
}

// newConnections takes the protocols to speak; nil: HTTP/1.1 and, over TLS,
// HTTP/2.
func newConnections(e source.Endpoint, protocols *http.Protocols) *connections {
	c := &connections{
		endpoint: e, age: connAge, open: map[*tracked]struct{}{},
		// The call's context bounds every phase.
		dialer: net.Dialer{KeepAlive: 15 * time.Second, Resolver: e.Resolver},
	}
	settings, changes := e.TLS.Current()
	c.changes.Store(int64(changes))
	c.renewAt.Store(time.Now().Add(c.age).UnixNano())
	c.plain2 = protocols != nil && protocols.UnencryptedHTTP2()
	next := []string{"h2", "http/1.1"}
	if protocols != nil && !protocols.HTTP1() {
		next = next[:1]
	}
	c.transport = &http.Transport{
		Proxy:       through(http.ProxyFromEnvironment),
		DialContext: c.dial,
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return c.dialTLS(ctx, network, address, next)
		},
		// TLSClientConfig is for connections through a proxy, DialTLSContext for
		// the others.
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
		OnProxyConnectResponse: proxyAnswered,
		ForceAttemptHTTP2:      true,
		Protocols:              protocols,
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    64,
		ReadBufferSize:         2 << 10, // thousands of polls have hundreds of connections
		WriteBufferSize:        1 << 10,
		IdleConnTimeout:        cmp.Or(e.Idle, source.MaxIdleTime),
		MaxResponseHeaderBytes: 64 << 10,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
	return c
}

func (c *connections) dial(ctx context.Context, network, address string) (net.Conn, error) {
	t, err := c.connect(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c.share(t, c.plain2)
	return t, nil
}

func (c *connections) connect(ctx context.Context, network, address string) (*tracked, error) {
	conn, err := c.dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c.made.Add(1)
	c.alien.Store(false)
	t := &tracked{Conn: conn, owner: c}
	t.heard.Store(time.Now().UnixNano())
	c.mu.Lock()
	c.open[t] = struct{}{}
	c.mu.Unlock()
	return t, nil
}

func (c *connections) share(t *tracked, shared bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t.shared = shared
}

// dialTLS connects with the present certificates.
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
	conn, err := c.connect(ctx, network, address)
	if err != nil {
		return nil, err
	}
	last := &secureConn{raw: conn}
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
	c.share(conn, last.ConnectionState().NegotiatedProtocol == "h2")
	c.last.Store(last)
	return last.Conn, nil
}

// answered must be called when the upstream has answered.
func (c *connections) answered() {
	if c.last.Load() != nil {
		c.last.Store(nil)
	}
}

// verdict returns err, or what the upstream answered to the client certificate if
// that may be the reason. With TLS 1.3 the client ends its handshake before the
// upstream checks the certificate, so that a refusal looks like any broken
// connection. net/http does not report it; a read from the closed tls.Conn may.
func (c *connections) verdict(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // *url.Error quotes the URL, which may hold a key
	}
	// Which error comes first is chance. The checks below may find a better one.
	if strings.Contains(err.Error(), "http2: client conn could not be established") {
		err = io.EOF
	}
	if c.alien.Load() {
		err = errAlien
	}
	last := c.last.Swap(nil)
	if last == nil || !last.asked || IsTimeout(err) || certificateDetail(err) != "" {
		return err
	}
	if last.raw.closed.Load() {
		if _, refusal := last.Read(make([]byte, 1)); refusal != nil && certificateDetail(refusal) != "" {
			return refusal
		}
	}
	return &afterAsking{err, last.shown}
}

// afterAsking is the end of a connection on which nothing was answered after the
// upstream had asked for a client certificate.
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

// errAlien is an answer in another protocol.
var errAlien = errors.New("answer is not HTTP/2")

// renew closes kept connections that are old, were made with other certificates,
// or are dead.
func (c *connections) renew(now time.Time) {
	_, changes := c.endpoint.TLS.Current()
	old, due := c.changes.Swap(int64(changes)) != int64(changes), c.renewAt.Load()
	if old || now.UnixNano() >= due && c.renewAt.CompareAndSwap(due, now.Add(c.age).UnixNano()) {
		c.transport.CloseIdleConnections()
	}
	if c.suspects.Load() {
		c.cut(now)
	}
}

// failed closes kept connections after a failure: the next call looks the name up
// again and uses a new connection. A shared connection stays open, because other
// calls may wait for answers on it. net/http has sent a ping when the call ended;
// renew closes the connection if nothing answers that.
func (c *connections) failed(start time.Time) {
	c.transport.CloseIdleConnections()
	c.mu.Lock()
	defer c.mu.Unlock()
	for t := range c.open {
		if t.shared && t.suspect == 0 && t.heard.Load() < time.Now().UnixNano()-int64(time.Since(start)/2) {
			t.suspect = time.Now().UnixNano()
			c.suspects.Store(true)
		}
	}
}

// pingTime is how long the answer to a ping may take.
const pingTime = time.Second

// cut closes connections that are dead.
func (c *connections) cut(now time.Time) {
	c.mu.Lock()
	var dead []*tracked
	more := false
	for t := range c.open {
		switch {
		case t.suspect == 0:
		case t.heard.Load() >= t.suspect:
			t.suspect = 0
		case now.UnixNano()-t.suspect >= int64(pingTime):
			dead = append(dead, t)
		default:
			more = true
		}
	}
	c.suspects.Store(more)
	c.mu.Unlock()
	for _, t := range dead {
		_ = t.Close()
	}
}

// close closes all connections.
func (c *connections) close() {
	c.transport.CloseIdleConnections()
	c.mu.Lock()
	all := slices.Collect(maps.Keys(c.open))
	c.mu.Unlock()
	for _, t := range all {
		_ = t.Close()
	}
}
