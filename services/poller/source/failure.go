package source

import (
	"slices"
	"strings"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
)

// Failure is why a call gave no value.
type Failure struct {
	Reason event.Reason
	// Detail is the failure in an operator's words, on one line of at most
	// event.MaxDetail bytes, without secrets and without values of the answer:
	// every client can read it.
	Detail string
	// Whole is Detail with the part of the answer that it is about, for the
	// operator; empty if that is the same.
	Whole string
	// Counts is set if the failure is the upstream's, so that the circuit breaker
	// counts it. Otherwise the upstream works and the request is wrong.
	Counts bool
	// Again is set if another call of the same request has the same failure: the
	// circuit breaker counts them as one.
	Again bool
	// RetryAfter is how long the upstream asks for a pause; 0: it does not ask.
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

// UpstreamError returns a failure that is the upstream's fault.
func UpstreamError(detail string) *Failure {
	return &Failure{Reason: event.UpstreamError, Detail: detail, Counts: true}
}

// BadResponse returns the failure of an answer that breaks the protocol's rules.
func BadResponse(detail string) *Failure {
	return &Failure{Reason: event.BadResponse, Detail: detail, Counts: true}
}

// Rejected returns the failure of a request that the upstream calls wrong.
func Rejected(detail string) *Failure {
	return &Failure{Reason: event.RequestRejected, Detail: detail}
}

// scrub returns the failure without secrets, on one line, bounded. The original
// is not changed: several calls may share it.
func (f *Failure) scrub(secrets []string) *Failure {
	scrubbed := *f
	scrubbed.Detail = event.Detail(Redact(f.Detail, secrets))
	return &scrubbed
}

// minSecretPart is the number of characters from which the beginning of a secret
// is treated as the secret.
const minSecretPart = 4

// Redact takes secrets out of a text: first the beginning of a secret that is cut
// off by "…" or "...", then whole secrets, the longest first.
func Redact(text string, secrets []string) string {
	const redacted = "[redacted]"
	secrets = slices.SortedStableFunc(slices.Values(secrets), func(a, b string) int { return len(b) - len(a) })
	for _, cut := range []string{"…", "..."} {
		parts := strings.Split(text, cut)
		for i, part := range parts[:len(parts)-1] {
			part = strings.TrimRight(part, " ")
			for _, s := range secrets {
				if n := overlap(part, s); n >= minSecretPart {
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

// overlap returns the length of the longest beginning of s with which text ends.
func overlap(text, s string) int {
	for n := min(len(text), len(s)); n > 0; n-- {
		if strings.HasSuffix(text, s[:n]) {
			return n
		}
	}
	return 0
}
