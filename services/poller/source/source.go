// Package source asks upstreams. A driver is one file, which opens an endpoint
// as a Func, and one line in Drivers.
//
// Reading order: source.go (what a driver is), jsonrpc.go with batch.go and
// rest.go with etag.go, grpc.go with grpcschema.go, grpcreflect.go and
// grpcfailure.go (the drivers jsonrpc, http and grpc), http.go (what the first
// two share), connections.go with certificates.go and proxy.go (what all drivers
// share), classify.go (which failure an error is, and whether the circuit
// breaker counts it). sourcetest holds what every driver must pass.
package source

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
)

// Call is what a poll asks.
type Call struct {
	Method string
	// Params is JSON, or nil for none. It may hold secrets, as may all that
	// follows, which is for drivers that make any HTTP request.
	Params json.RawMessage
	Path   string // goes behind that of the endpoint's URL
	Query  url.Values
	Header http.Header
	Body   json.RawMessage
	// For names who asks if the request is another one at every tick: of its
	// answers only the last is remembered. Empty for a request that stays.
	For string
}

// Func makes one call to one upstream and returns the answer's value as JSON.
// It must return soon after ctx ends, and may be called from several
// goroutines at once. Its error is ctx's cancellation or a *Failure.
type Func func(ctx context.Context, c Call) (json.RawMessage, error)

// Endpoint is one upstream of a source.
type Endpoint struct {
	// URL was checked by the configuration: a scheme of the driver, with a host,
	// without credentials.
	URL string
	// Header goes with every call, credentials included.
	Header http.Header
	// TLS holds the certificates for connections that are encrypted; nil for the
	// system's authorities and none of our own.
	TLS *Certificates
	// Resolver looks up host names; nil for the system's.
	Resolver *net.Resolver
	// MaxAnswer bounds an answer, in bytes, before and after decompression.
	MaxAnswer int64
	// Idle is how long a connection is kept that nobody uses; 0 for 90 s.
	Idle time.Duration
	// Batch asks for calls that come together to be sent together, by drivers
	// that can (Driver.Batches).
	Batch bool
	// Descriptors is a file that describes what the upstream's methods take and
	// give, for drivers that need to know (Driver.Described); or "".
	Descriptors string
	// Notice, if set, is told what an operator should know of the upstream and
	// is no failure. It must not block.
	Notice func(message string, facts ...any)
	// Secrets are texts that must not appear in what a Func returns as an error,
	// even if the upstream sends them back.
	Secrets []string
}

// Driver opens endpoints of one protocol.
type Driver struct {
	// Open returns the endpoint's Func and what frees it; the latter must be
	// called after the last call has returned. Open makes no connection.
	Open func(Endpoint) (call Func, free func(), err error)
	// Schemes are those of its URLs, without and with TLS.
	Schemes []string
	// Path is an example of a URL's path; "" if its URLs have none, and need a
	// port.
	Path string
	// Batches says that the driver knows what to do with Endpoint.Batch.
	Batches bool
	// Described says that the driver knows what to do with Endpoint.Descriptors.
	Described bool
	// Check reports what is wrong with an endpoint of any URL, by the keys of a
	// source's configuration, and returns what reports what is wrong with a call,
	// by those of a poll.
	Check func(e Endpoint, report Report) func(c Call, report Report)
}

// Report is told a mistake, and what to do.
type Report = func(key, problem, fix string)

// alike is a Check for drivers to which all endpoints are good.
func alike(check func(c Call, report Report)) func(Endpoint, Report) func(Call, Report) {
	return func(Endpoint, Report) func(Call, Report) { return check }
}

// Drivers holds every driver by the name that configurations use.
var Drivers = map[string]Driver{
	"grpc":    {Open: openGRPC, Schemes: grpcSchemes, Described: true, Check: checkGRPC},
	"http":    {Open: openREST, Schemes: webSchemes, Path: "/path", Check: alike(checkREST)},
	"jsonrpc": {Open: openJSONRPC, Schemes: webSchemes, Path: "/path", Batches: true, Check: alike(checkJSONRPC)},
}

var webSchemes = []string{"http", "https"}

// Encrypted reports whether a URL is asked over TLS.
func Encrypted(address string) bool {
	scheme, _, _ := strings.Cut(address, "://")
	for _, d := range Drivers {
		if slices.Index(d.Schemes, scheme) == 1 {
			return true
		}
	}
	return false
}

// AllSchemes lists what URLs of upstreams may start with.
func AllSchemes() []string {
	var all []string
	for _, d := range Drivers {
		all = append(all, d.Schemes...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Names lists the drivers for messages: "grpc, http or jsonrpc".
func Names() string {
	names := make([]string, 0, len(Drivers))
	for name := range Drivers {
		names = append(names, name)
	}
	slices.Sort(names)
	if last := len(names) - 1; last > 0 {
		return strings.Join(names[:last], ", ") + " or " + names[last]
	}
	return names[0]
}

// Failure is why a call gave no value.
type Failure struct {
	Reason event.Reason
	// Detail is the failure in an operator's words, on one line of at most
	// event.MaxDetail bytes, without secrets and without the values of the answer:
	// every client reads it.
	Detail string
	// Whole is Detail with what of the answer it is about, for the operator; empty
	// if that is all the same.
	Whole string
	// Counts says that the failure is the upstream's, so that the circuit
	// breaker counts it; otherwise the upstream is there and the request is
	// wrong.
	Counts bool
	// Again says that another call of the same request has the same failure: for
	// the circuit breaker they are one.
	Again         bool
	unknownMethod bool
	// RetryAfter is how long the upstream asks to be left alone; 0 if it does
	// not say.
	RetryAfter time.Duration
}

func (f *Failure) Error() string { return string(f.Reason) + ": " + f.Detail }

// Word changes the words of the failure.
func (f *Failure) Word(change func(string) string) {
	f.Detail = change(f.Detail)
	if f.Whole != "" {
		f.Whole = change(f.Whole)
	}
}

// upstreamError is a failure the upstream has to answer for.
func upstreamError(detail string) *Failure {
	return &Failure{Reason: event.UpstreamError, Detail: detail, Counts: true}
}

// badResponse is an answer that is not what the protocol says.
func badResponse(detail string) *Failure {
	return &Failure{Reason: event.BadResponse, Detail: detail, Counts: true}
}

// rejected is an answer that calls the request wrong.
func rejected(detail string) *Failure {
	return &Failure{Reason: event.RequestRejected, Detail: detail}
}

// scrub makes a failure presentable: no secrets, one line, bounded.
func (f *Failure) scrub(secrets []string) *Failure {
	f.Detail = event.Detail(Redact(f.Detail, secrets))
	return f
}

// fewest is how many characters of a secret's beginning give it away.
const fewest = 4

// Redact takes secrets out of a text: what is left of those that were cut short,
// which is their beginning before "…" or "...", and then whole ones, the longest
// first.
func Redact(text string, secrets []string) string {
	const redacted = "[redacted]"
	secrets = slices.SortedStableFunc(slices.Values(secrets), func(a, b string) int { return len(b) - len(a) })
	for _, cut := range []string{"…", "..."} {
		parts := strings.Split(text, cut)
		for i, part := range parts[:len(parts)-1] {
			part = strings.TrimRight(part, " ")
			for _, s := range secrets {
				if n := overlap(part, s); n >= fewest {
					parts[i] = part[:len(part)-n] + redacted
					break
				}
			}
		}
		text = strings.Join(parts, cut)
	}
	for _, s := range secrets {
		text = strings.ReplaceAll(text, s, redacted)
	}
	return text
}

// overlap is the length of the longest beginning of s with which text ends.
func overlap(text, s string) int {
	for n := min(len(text), len(s)); n > 0; n-- {
		if strings.HasSuffix(text, s[:n]) {
			return n
		}
	}
	return 0
}
