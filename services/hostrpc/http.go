package hostrpc

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// callTimeout bounds the work on one body, without the delays of faults.
const callTimeout = 10 * time.Second

func (s *Server) routes(g prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", s.serveRPC)
	mux.HandleFunc("/jsonrpc", s.serveRPC)
	mux.HandleFunc("/healthz", s.serveHealth)
	if g != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{}))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &recorder{ResponseWriter: w}
		// Deferred, because requests that a fault or a lost client ends leave by
		// a panic.
		defer func() {
			s.log.LogAttrs(r.Context(), slog.LevelDebug, "request",
				slog.String("http_method", r.Method), slog.String("path", clip(r.URL.Path)), slog.Int("status", rec.status),
				slog.Int("calls", rec.calls), slog.Int("bytes", rec.bytes), slog.Duration("took", time.Since(start)),
				slog.String("remote", r.RemoteAddr))
		}()
		mux.ServeHTTP(rec, r)
	})
}

// serveHealth reports whether answers would be correct: a server with a stuck
// sampler runs but is useless.
func (s *Server) serveHealth(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "use GET", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	if err := s.sampler.healthy(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, "ok\n") // fails only when the client has gone
}

// serveRPC handles one body: it is admitted, read, parsed, delayed or replaced by
// a fault, answered.
func (s *Server) serveRPC(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	if !s.admit(w, r) {
		return
	}
	release, ok := take(s.slots)
	if !ok {
		w.Header().Set("Retry-After", "1")
		s.reject(w, r, http.StatusServiceUnavailable, outcomeOverloaded,
			failf(codeServer, "%d requests are in flight, the limit", maxInFlight))
		return
	}
	defer func() { release() }()
	body, ok := s.readBody(w, r)
	if !ok {
		return
	}
	requests, batch, fail := parseBody(body, s.config.MaxBatch)
	if fail != nil {
		s.metrics.count(fail.outcome())
		s.write(w, r, http.StatusOK, appendResponse(nil, nil, nil, fail))
		return
	}
	if rec, ok := w.(*recorder); ok {
		rec.calls = len(requests)
	}
	plan := s.faults.plan(requests)
	if plan.hang || plan.delay > 0 {
		release()
		release = func() {}
		s.hold(r.Context(), plan, requests, start)
	}
	// The write deadline has counted since the headers came, through any delay.
	// The read deadline does not matter: net/http removes it after the body.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(callTimeout + writeTimeout))
	if plan.spoil != "" {
		s.spoil(w, plan, requests, start)
		return
	}
	answer := s.answer(r.Context(), requests, batch, plan, start)
	if answer == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	s.write(w, r, http.StatusOK, answer)
}

// admit refuses by the headers what is no JSON-RPC call.
func (s *Server) admit(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		s.reject(w, r, http.StatusMethodNotAllowed, outcomeHTTPMethod,
			failf(codeInvalidRequest, "JSON-RPC calls are HTTP POST, this is %s", clip(r.Method)))
		return false
	}
	// Any web page in a browser on this host can reach loopback.
	if err := new(http.CrossOriginProtection).Check(r); err != nil {
		s.reject(w, r, http.StatusForbidden, outcomeCrossOrigin,
			failf(codeInvalidRequest, "a page of another site may not call this server"))
		return false
	}
	if problem := mediaProblem(r.Header); problem != "" {
		s.reject(w, r, http.StatusUnsupportedMediaType, outcomeMediaType, failf(codeInvalidRequest, "%s", problem))
		return false
	}
	return true
}

// mediaProblem returns what is wrong with a body's type, or "". A body without a
// type is accepted: simple clients send none.
func mediaProblem(h http.Header) string {
	if encoding := h.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return fmt.Sprintf("Content-Encoding %q is not supported: send the body as it is", clip(encoding))
	}
	value := h.Get("Content-Type")
	if strings.TrimSpace(value) == "" {
		return ""
	}
	kind, parameters, err := mime.ParseMediaType(value)
	if err == nil {
		switch kind {
		case "application/json", "application/json-rpc", "application/jsonrequest":
			if charset := parameters["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") {
				return fmt.Sprintf("charset %q is not supported: JSON is UTF-8", clip(charset))
			}
			return ""
		}
	}
	return fmt.Sprintf("Content-Type %q is not supported: send application/json", clip(value))
}

func (s *Server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(s.config.MaxBodyBytes)))
	if err == nil {
		return body, true
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		s.reject(w, r, http.StatusRequestEntityTooLarge, outcomeTooLarge,
			failf(codeInvalidRequest, "the body has more than %d bytes, the limit", tooLarge.Limit))
		return nil, false
	}
	status := http.StatusBadRequest
	if errors.Is(err, os.ErrDeadlineExceeded) {
		status = http.StatusRequestTimeout
	}
	w.Header().Set("Connection", "close")
	s.reject(w, r, status, outcomeBadBody, failf(codeParse, "the body did not arrive whole"))
	return nil, false
}
