package source

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Call is what a poll asks.
type Call struct {
	Method string
	// Params is JSON; nil for none. It may hold secrets, and so may the fields
	// below, which are for drivers that make any HTTP request.
	Params json.RawMessage
	Path   string // is appended to the path of the endpoint's URL
	Query  url.Values
	Header http.Header
	Body   json.RawMessage
	// For names the poll when its request differs at every tick: only its last
	// answer is remembered. It is empty for a request that stays the same.
	For string
}

// Func makes one call to one upstream and returns the answer's value as JSON.
// It must return soon after ctx ends. It may be called from several goroutines at
// once. Its error is ctx's cancellation or a *Failure.
type Func func(ctx context.Context, c Call) (json.RawMessage, error)

// Endpoint is one upstream of a source.
type Endpoint struct {
	// URL was checked by the configuration: a scheme of the driver, with a host,
	// without credentials.
	URL string
	// Header is sent with every call, credentials included.
	Header http.Header
	// TLS holds the certificates for encrypted connections; nil: the system's
	// authorities and no client certificate.
	TLS *Certificates
	// Resolver looks up host names; nil: the system's.
	Resolver *net.Resolver
	// MaxAnswer bounds an answer, in bytes, before and after decompression.
	MaxAnswer int64
	// Idle is how long an unused connection is kept; 0: MaxIdleTime.
	Idle time.Duration
	// Batch makes a driver with Driver.Batches send calls that come together in one
	// request.
	Batch bool
	// Descriptors is a file that describes the upstream's methods, for a driver with
	// Driver.Described; or "".
	Descriptors string
	// Notice, if set, receives what an operator should know of the upstream and
	// what is no failure. It must not block.
	Notice func(message string, facts ...any)
	// Secrets are texts that must not appear in an error of a Func, even if the
	// upstream sends them back.
	Secrets []string
}

// Scrub returns call with its failures made ready for clients: without the
// endpoint's secrets, on one line, bounded.
func (e Endpoint) Scrub(call Func) Func {
	return func(ctx context.Context, c Call) (json.RawMessage, error) {
		value, err := call(ctx, c)
		if f, ok := errors.AsType[*Failure](err); ok {
			return nil, f.scrub(e.Secrets)
		}
		return value, err
	}
}

// Bounds of IdleTime.
const (
	minIdleTime = 10 * time.Second
	MaxIdleTime = 90 * time.Second
)

// IdleTime returns how long to keep an unused connection when the slowest poll
// asks at this interval. Connections that only a burst needs, for example at a
// poller's start, close soon.
func IdleTime(interval time.Duration) time.Duration {
	return min(max(3*interval, minIdleTime), MaxIdleTime)
}

// Driver opens endpoints of one protocol.
type Driver struct {
	// Open returns the endpoint's Func, and free, which must be called after the
	// last call has returned. Open makes no connection.
	Open func(Endpoint) (call Func, free func(), err error)
	// Schemes are those of its URLs: first without TLS, then with TLS.
	Schemes []string
	// Path is an example of a URL's path; "" if its URLs have no path and need a
	// port.
	Path string
	// Batches is set if the driver knows Endpoint.Batch.
	Batches bool
	// Described is set if the driver knows Endpoint.Descriptors.
	Described bool
	// Check reports the mistakes of an endpoint, whatever its URL, by the keys of a
	// source's configuration. It returns a function that reports the mistakes of a
	// call, by the keys of a poll's.
	Check func(e Endpoint, report Report) func(c Call, report Report)
}

// Report receives a mistake: the key that holds it, what is wrong, what to do.
type Report = func(key, problem, fix string)

// CheckCalls returns a Driver.Check for drivers to which all endpoints are good.
func CheckCalls(check func(c Call, report Report)) func(Endpoint, Report) func(Call, Report) {
	return func(Endpoint, Report) func(Call, Report) { return check }
}
