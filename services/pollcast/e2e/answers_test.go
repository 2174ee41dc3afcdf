package e2e

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestBadAnswers checks that every answer of an upstream is classified, named and
// survived: the last value stays, stale with the right reason and a useful
// detail, and it is fresh again when the upstream is.
func TestBadAnswers(t *testing.T) {
	t.Parallel()
	const interval = 400 * time.Millisecond
	tests := []struct {
		name   string
		answer answer // nil: the upstream is down
		reason string
		detail string // the beginning of the failure's detail
		opens  bool   // the failure opens the breaker
	}{
		{"html", body("text/html", "<!DOCTYPE html><title>Sign in</title>"), "bad_response", "answer is HTML, not JSON",
			true},
		{"html_502", func(w http.ResponseWriter, r *http.Request, _, _ jsonText) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusBadGateway)
			fmt.Fprint(w, "<h1>Bad Gateway</h1>")
		}, "upstream_error", "HTTP 502 Bad Gateway", true},
		{"half_json", body("application/json", `{"jsonrpc":"2.0","id":1,"result":{"n":`), "bad_response",
			"answer is cut off: its JSON ends early, after 38 bytes", true},
		{"no_json", body("application/json", `n=1`), "bad_response", "answer is not JSON: ", true},
		{"list", body("application/json", `[1,2]`), "bad_response", "answer is a JSON array, an object was expected", true},
		{"empty", body("application/json", ``), "bad_response", "answer is empty", true},
		{"no_utf8", func(w http.ResponseWriter, r *http.Request, id, _ jsonText) { truth(w, r, id, jsonText("\"\xff\"")) },
			"bad_response", "answer is not UTF-8", true},
		{"flood", flood, "bad_response", "answer is longer than 8 MiB", true},
		{"gzip_bomb", bomb, "bad_response", "answer is longer than 8 MiB", true},
		{"wrong_id", wrongID, "bad_response", `id "somebody else's" answered, `, true},
		{"server_error", rpcError(-32000, "the database is away"), "upstream_error",
			"JSON-RPC error -32000: the database is away", true},
		{"wrong_params", rpcError(-32602, "height must be a number"), "request_rejected",
			"JSON-RPC error -32602: height must be a number", false},
		{"no_method", rpcError(-32601, "no such method"), "request_rejected", "JSON-RPC error -32601: no such method",
			false},
		{"http_404", status(http.StatusNotFound), "request_rejected", "HTTP 404 Not Found", false},
		{"http_503", status(http.StatusServiceUnavailable), "upstream_error", "HTTP 503 Service Unavailable", true},
		{"hang", hang, "timeout", "no answer within 3", true},
		{"trickle", trickle, "timeout", "answer not complete within 3", true},
		{"redirect_loop", redirect, "bad_response", "HTTP 307 Temporary Redirect: redirects are not followed", true},
		{"reset", reset, "upstream_error", "connection reset", true},
		{"refused", nil, "upstream_error", "connection refused", true},
	}
	ups := map[string]*upstream{}
	sources := ""
	for _, tt := range tests {
		up := newUpstream(t)
		ups[tt.name] = up
		every := interval
		if strings.HasSuffix(tt.detail, "8 MiB") {
			every *= 4 // a busy machine needs time to read so much
		}
		sources += fmt.Sprintf("    %s: {upstreams: [%q], breaker: {openFor: %v}, polls: {p: {method: p, interval: %v}}}\n",
			tt.name, up.url(), max(time.Second, every), every)
	}
	s := newStack(t, sources)
	poller, gateway := s.all()
	before := memory(t, poller)

	t.Run("answers", func(t *testing.T) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				poll := tt.name + ".p"
				c := dial(t, gateway.addr, "/v1/ws?topics="+poll+","+tt.name+".>")
				c.await("a fresh value", func(f frame) bool { return liveEvent(poll)(f) && !f.Event.Stale })

				place := c.skip()
				if tt.answer == nil {
					ups[tt.name].close()
				} else {
					ups[tt.name].set(tt.answer)
				}
				stale := c.await("stale", isStale(poll)).Fresh
				if stale.Reason != tt.reason || !strings.HasPrefix(stale.Detail, tt.detail) {
					t.Errorf("reason %q, detail %q\nwant   %q,        %q…", stale.Reason, stale.Detail, tt.reason, tt.detail)
				}
				if tt.opens {
					open := c.await("the breaker opens", breakerTo(tt.name, "open")).Breaker
					if !strings.HasPrefix(open.Cause, tt.detail) || open.Failures != 5 {
						t.Errorf("the breaker's cause is %q after %d failures, want %q… after 5", open.Cause, open.Failures, tt.detail)
					}
				} else {
					seven := c.await("stale for longer than a breaker would take", func(f frame) bool {
						return isStale(poll)(f) &&
							f.Fresh.ConsecutiveFailures >= 7
					})
					if seven.Fresh.Breaker != "closed" || seven.Fresh.Reason != tt.reason {
						t.Errorf("after seven times: %s", seven.raw)
					}
				}
				// No other value was published meanwhile, and new clients get the
				// last one.
				good := c.seen(anyEvent(poll))
				last := good[len(good)-1].Event
				late := dial(t, gateway.addr, "/v1/ws?topics="+poll)
				if e := late.await("the last value", anyEvent(poll)).Event; e.Version != last.Version || !e.Stale ||
					string(e.Data) != string(last.Data) {
					t.Errorf("a newcomer got version %d %s, stale %v; want version %d %s, stale", e.Version, e.Data, e.Stale,
						last.Version, last.Data)
				}

				if tt.answer == nil {
					ups[tt.name].open()
				} else {
					ups[tt.name].set(nil)
				}
				c.await("a fresh value again", func(f frame) bool {
					return liveEvent(poll)(f) && !f.Event.Stale &&
						f.Event.Version == last.Version+1
				})
				c.back(place)
				c.await("stale, once more", isStale(poll))
				c.await("fresh again", isFresh(poll))
				if n := len(c.seen(func(f frame) bool { return f.Breaker != nil })); !tt.opens && n > 0 {
					t.Errorf("%d breaker frames for a request that is wrong", n)
				}
			})
		}
	})

	// The upstream offered 100 MB many times, twice.
	if after := memory(t, poller); after > before+200<<20 {
		t.Errorf("the poller grew from %d to %d MiB", before>>20, after>>20)
	}
}

// memory returns a service's resident memory in bytes.
func memory(t *testing.T, v *service) int {
	t.Helper()
	_, text, err := get("http://" + v.ops + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "process_resident_memory_bytes "); ok {
			bytes, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(bytes)
		}
	}
	t.Fatal("/metrics lacks process_resident_memory_bytes")
	return 0
}
