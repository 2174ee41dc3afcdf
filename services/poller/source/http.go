package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// What the drivers over HTTP share.

// httpEndpoint is an upstream that speaks HTTP.
type httpEndpoint struct {
	Endpoint
	*connections
}

// answer is an HTTP answer, read whole.
type answer struct {
	status     int
	statusText string // "503 Service Unavailable"
	mediaType  string
	retryAfter time.Duration
	etag       string
	location   string // scheme and host that a redirect points to
	body       []byte
}

func openHTTP(e Endpoint) *httpEndpoint {
	return &httpEndpoint{Endpoint: e, connections: newConnections(e, nil)}
}

// Headers of every request. net/http reads them only.
var (
	applicationJSON = []string{"application/json"}
	userAgent       = []string{"pollcast"}
	noValue         = []string{}
)

// do sends a request and reads the answer, whatever its status. The error is a
// cancellation or a *Failure. The call's own headers replace the endpoint's; the body
// has at most limit bytes.
func (e *httpEndpoint) do(ctx context.Context, req *http.Request, own http.Header, limit int64) (*answer, error) {
	for _, h := range []http.Header{e.Header, own} {
		for name, values := range h {
			req.Header[name] = values
		}
	}
	if req.Header.Get("User-Agent") == "" {
		req.Header["User-Agent"] = userAgent
	}
	// An upstream may close a kept connection in the moment in which the request
	// is sent. With this key, which is not sent itself when it has no value,
	// net/http sends such a request again on a new connection, once. A poll
	// asks the same thing every interval, so that repeating it does no harm.
	req.Header["Idempotency-Key"] = noValue

	start := time.Now()
	e.renew(start)
	// Not through http.Client, which is there for redirects and cookies: a redirect
	// would send the credentials and the parameters to an address that nobody
	// configured.
	resp, err := e.transport.RoundTrip(req)
	if err != nil {
		e.failed(start)
		return nil, transportFailure(ctx, e.verdict(err), start)
	}
	defer resp.Body.Close()
	e.answered()

	a := &answer{
		status:     resp.StatusCode,
		statusText: statusText(resp),
		mediaType:  mediaType(resp.Header.Get("Content-Type")),
		retryAfter: parseRetryAfter(resp.Header.Get("Retry-After"), time.Now()),
		etag:       resp.Header.Get("ETag"),
		location:   host(resp),
	}
	// net/http has undone the gzip it asked for, and removed the header.
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, badResponse(fmt.Sprintf("answer is encoded as %q, which was not asked for", enc))
	}
	tooLong := badResponse("answer is longer than " + size(limit))
	if resp.ContentLength > limit {
		return nil, tooLong
	}
	a.body, err = io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		e.failed(start)
		return nil, bodyFailure(ctx, err, start, len(a.body))
	}
	if int64(len(a.body)) > limit {
		return nil, tooLong
	}
	return a, nil
}

// statusText is the status with the standard words for it: those of the
// upstream may be anything.
func statusText(resp *http.Response) string {
	if text := http.StatusText(resp.StatusCode); text != "" {
		return strconv.Itoa(resp.StatusCode) + " " + text
	}
	return strconv.Itoa(resp.StatusCode)
}

// host is where an answer redirects to, without path and query, which may hold
// keys; "" if it does not or stays.
func host(resp *http.Response) string {
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
// 10.2.3). What is neither, or past, is no wish.
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

// size writes a number of bytes for people.
func size(n int64) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.4g KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d bytes", n)
}

// cancelled reports whether the caller gave up, which is no failure of the
// upstream.
func cancelled(ctx context.Context) bool { return errors.Is(ctx.Err(), context.Canceled) }
