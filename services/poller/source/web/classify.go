package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
)

// This file decides which failure an outcome is:
//
//	outcome                                   reason             counts
//	cannot connect, reset, closed, TLS        upstream_error     yes
//	no whole answer in time                   timeout            yes
//	HTTP 5xx, 408, 429                        upstream_error     yes
//	HTTP 3xx, not HTTP, not what was asked    bad_response       yes
//	too long, not JSON, wrong id              bad_response       yes
//	JSON-RPC error, also -32603, -32700       upstream_error     yes
//	JSON-RPC error -32600 to -32602           request_rejected   no
//	HTTP 4xx other than 408, 429              request_rejected   no
//
// JSON-RPC servers differ in the HTTP status of an error object. With 200 and 5xx
// the error object decides. A 4xx means that the request is wrong; the object
// only explains it.

// Classify returns the failure of sending the request or of waiting for the head
// of the answer; or ctx's cancellation.
func Classify(ctx context.Context, err error, start time.Time) error {
	if Cancelled(ctx) {
		return ctx.Err()
	}
	if IsTimeout(err) {
		return Timeout(ctx, start)
	}
	if d := notHTTP(err); d != "" {
		return source.BadResponse(d)
	}
	return source.UpstreamError(connectionDetail(err))
}

// bodyFailure returns the failure of reading the answer's body, of which got
// bytes arrived.
func bodyFailure(ctx context.Context, err error, start time.Time, got int) error {
	switch {
	case Cancelled(ctx):
		return ctx.Err()
	case IsTimeout(err):
		return &source.Failure{
			Reason: event.Timeout, Counts: true,
			Detail: fmt.Sprintf("answer not complete within %s (%d bytes so far)", allowed(ctx, start), got),
		}
	case strings.HasPrefix(err.Error(), "gzip:"), strings.HasPrefix(err.Error(), "flate:"):
		return source.BadResponse("answer cannot be decompressed: " + err.Error())
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF):
		return source.UpstreamError(fmt.Sprintf("connection broke off after %d bytes of the answer", got))
	}
	return source.UpstreamError("reading the answer failed: " + connectionDetail(err))
}

// Failure returns the failure that the HTTP status alone means; nil for 2xx.
func (a *Answer) Failure() *source.Failure {
	var f *source.Failure
	switch {
	case a.Status >= 200 && a.Status < 300:
		return nil
	case a.Status >= 500, a.Status == http.StatusRequestTimeout, a.Status == http.StatusTooManyRequests:
		f = source.UpstreamError("HTTP " + a.StatusText)
	case a.Status >= 400:
		f = source.Rejected("HTTP " + a.StatusText)
	case a.Status >= 300:
		f = source.BadResponse("HTTP " + a.StatusText + ": redirects are not followed")
		if a.Location != "" {
			f.Detail += ", this one leads to " + a.Location
		}
	default:
		f = source.BadResponse("HTTP " + a.StatusText)
	}
	f.RetryAfter = a.RetryAfter
	return f
}

func IsTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	n, ok := errors.AsType[net.Error](err)
	return ok && n.Timeout()
}

const plainHTTP = "upstream speaks plain HTTP, not HTTPS"

// notHTTP returns why an answer is not HTTP, or "".
func notHTTP(err error) string {
	text := err.Error()
	switch {
	case strings.Contains(text, "server gave HTTP response to HTTPS client"):
		return plainHTTP
	case errors.Is(err, errAlien), strings.Contains(text, "http2: frame too large"),
		strings.Contains(text, "http2: failed reading the frame payload"):
		return errAlien.Error()
	case strings.Contains(text, "malformed HTTP"), strings.Contains(text, "malformed MIME"):
		return "answer is not HTTP"
	case strings.Contains(text, "server response headers exceeded"):
		return "head of the answer is longer than 64 KiB"
	}
	if r, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		if string(r.RecordHeader[:]) == "HTTP/" {
			return plainHTTP
		}
		return "upstream does not speak TLS: " + r.Msg
	}
	return ""
}

// connectionDetail returns a connection error in an operator's words.
func connectionDetail(err error) string {
	if d := proxyDetail(err); d != "" {
		return d
	}
	if d, ok := errors.AsType[*net.DNSError](err); ok {
		if d.IsNotFound {
			return fmt.Sprintf("host name %q does not exist", d.Name)
		}
		return fmt.Sprintf("host name %q cannot be resolved: %s", d.Name, d.Err)
	}
	if e, ok := errors.AsType[*afterAsking](err); ok {
		return e.detail()
	}
	if d := certificateDetail(err); d != "" {
		return "TLS: " + d
	}
	for _, known := range []struct {
		err  error
		text string
	}{
		{syscall.EMFILE, "this poller has too many open files (ulimit -n); the upstream was not asked"},
		{syscall.ENFILE, "this poller's machine has too many open files; the upstream was not asked"},
		{syscall.EADDRNOTAVAIL, "this poller's machine has no port left for the connection"},
		{syscall.ECONNREFUSED, "connection refused"},
		{syscall.ECONNRESET, "connection reset"},
		{syscall.EPIPE, "connection closed while sending"},
		{syscall.EHOSTUNREACH, "no route to the host"},
		{syscall.ENETUNREACH, "no route to the network"},
		{io.ErrUnexpectedEOF, "connection closed in the middle of the answer"},
		{io.EOF, "connection closed without an answer"},
	} {
		if errors.Is(err, known.err) {
			return known.text
		}
	}
	// net.OpError repeats addresses. The error in it is enough.
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Err != nil {
		err = op.Err
	}
	if strings.Contains(err.Error(), "server closed idle connection") {
		return "connection closed without an answer"
	}
	return err.Error()
}

// Timeout returns the failure of a call, begun at start, that had no answer in time.
func Timeout(ctx context.Context, start time.Time) *source.Failure {
	return &source.Failure{Reason: event.Timeout, Detail: "no answer within " + allowed(ctx, start), Counts: true}
}

// allowed returns how long the call could take, with about three digits.
func allowed(ctx context.Context, start time.Time) string {
	d := time.Since(start)
	if deadline, ok := ctx.Deadline(); ok {
		d = deadline.Sub(start)
	}
	switch {
	case d >= 10*time.Second:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Millisecond).String()
}
