package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pollcast/pollcast/services/poller/source"
)

// Client asks one upstream over HTTP. Its methods may be called from several
// goroutines at once.
type Client struct {
	source.Endpoint
	conns *connections
}

// Schemes are those of URLs for New, without and with TLS.
var Schemes = []string{"http", "https"}

// New returns a client that speaks HTTP/1.1 and, over TLS, HTTP/2.
func New(e source.Endpoint) *Client {
	return &Client{Endpoint: e, conns: newConnections(e, nil)}
}

// NewHTTP2 returns a client that speaks HTTP/2 only; plain is without TLS.
func NewHTTP2(e source.Endpoint, plain bool) *Client {
	protocols := new(http.Protocols)
	if plain {
		protocols.SetUnencryptedHTTP2(true)
	} else {
		protocols.SetHTTP2(true)
	}
	c := &Client{Endpoint: e, conns: newConnections(e, protocols)}
	if plain {
		c.conns.transport.Proxy = nil // no proxy forwards HTTP/2 without TLS
	}
	return c
}

// Close closes all connections.
func (c *Client) Close() { c.conns.close() }

// Made returns the number of connections made so far.
func (c *Client) Made() int64 { return c.conns.made.Load() }

// Renew must be called before a request of RoundTrip. It closes kept connections
// that are old or dead.
func (c *Client) Renew(now time.Time) { c.conns.renew(now) }

// Failed must be called after a request of RoundTrip, begun at start, that failed
// because of the connection. The next request uses another connection.
func (c *Client) Failed(start time.Time) { c.conns.failed(start) }

// RoundTrip sends a request as it is. Classify makes a failure of its error.
func (c *Client) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.conns.transport.RoundTrip(req)
	if err != nil {
		return nil, c.conns.verdict(err)
	}
	c.conns.answered()
	return resp, nil
}

// Answer is an HTTP answer.
type Answer struct {
	Status     int
	StatusText string // such as "503 Service Unavailable"
	MediaType  string
	RetryAfter time.Duration
	ETag       string
	Location   string // scheme and host to which a redirect points
	Body       []byte
}

// Head returns the answer without its body.
func Head(resp *http.Response) *Answer {
	return &Answer{
		Status:     resp.StatusCode,
		StatusText: statusText(resp),
		MediaType:  mediaType(resp.Header.Get("Content-Type")),
		RetryAfter: parseRetryAfter(resp.Header.Get("Retry-After"), time.Now()),
		ETag:       resp.Header.Get("ETag"),
		Location:   location(resp),
	}
}

// ApplicationJSON is the value of a header for JSON. net/http only reads it.
var ApplicationJSON = []string{"application/json"}

var (
	userAgent = []string{"pollcast"}
	noValue   = []string{}
)

// Do sends a request and reads the whole answer, of any status. The call's own
// headers replace the endpoint's. The body has at most limit bytes. The error is
// a cancellation or a *source.Failure.
func (c *Client) Do(ctx context.Context, req *http.Request, own http.Header, limit int64) (*Answer, error) {
	c.SetHeader(req.Header, own)
	if req.Header.Get("User-Agent") == "" {
		req.Header["User-Agent"] = userAgent
	}
	// An upstream may close a kept connection at the moment in which the request
	// is sent. With this key, which is not sent because it has no value, net/http
	// sends such a request again on a new connection, once. A poll asks the same
	// thing every interval, so that the repetition does no harm.
	req.Header["Idempotency-Key"] = noValue

	start := time.Now()
	c.Renew(start)
	// http.Client is not used: it adds redirects and cookies. A redirect would send
	// the credentials and the parameters to an address that nobody configured.
	resp, err := c.conns.transport.RoundTrip(req)
	if err != nil {
		c.Failed(start)
		return nil, Classify(ctx, c.conns.verdict(err), start)
	}
	defer resp.Body.Close()
	c.conns.answered()

	a := Head(resp)
	// net/http has undone the gzip that it asked for, and removed the header.
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, source.BadResponse(fmt.Sprintf("answer is encoded as %q, which was not asked for", enc))
	}
	tooLong := source.BadResponse("answer is longer than " + source.Size(limit))
	if resp.ContentLength > limit {
		return nil, tooLong
	}
	a.Body, err = io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		c.Failed(start)
		return nil, bodyFailure(ctx, err, start, len(a.Body))
	}
	if int64(len(a.Body)) > limit {
		return nil, tooLong
	}
	return a, nil
}

// SetHeader adds the endpoint's headers, and then the call's own, which replace
// them.
func (c *Client) SetHeader(to, own http.Header) {
	for _, h := range []http.Header{c.Header, own} {
		for name, values := range h {
			to[name] = values
		}
	}
}

// statusText returns the status with its standard words: the upstream's own may
// be anything.
func statusText(resp *http.Response) string {
	if text := http.StatusText(resp.StatusCode); text != "" {
		return strconv.Itoa(resp.StatusCode) + " " + text
	}
	return strconv.Itoa(resp.StatusCode)
}

// location returns where an answer redirects to, without path and query, which
// may hold keys. It returns "" if the answer does not redirect or stays at the
// host.
func location(resp *http.Response) string {
	if resp.StatusCode < 300 || resp.StatusCode > 399 || resp.Request == nil {
		return ""
	}
	u, err := resp.Location()
	if err != nil || u.Host == "" || u.Scheme == resp.Request.URL.Scheme && u.Host == resp.Request.URL.Host {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

func mediaType(contentType string) string {
	t, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(t))
}

// parseRetryAfter reads the header's two forms, seconds and a date (RFC 9110,
// 10.2.3). It returns 0 for anything else and for a time that is over.
func parseRetryAfter(s string, now time.Time) time.Duration {
	if s == "" {
		return 0
	}
	if secs, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(secs) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// Cancelled reports whether the caller gave up, which is no failure of the
// upstream.
func Cancelled(ctx context.Context) bool { return errors.Is(ctx.Err(), context.Canceled) }
