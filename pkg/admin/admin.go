// Package admin is the operations port of every service: health, readiness,
// metrics and profiles. It must be reachable only from inside a network.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Options of New.
type Options struct {
	// Listen is the address, "host:port"; port 0 takes a free one.
	Listen string
	// Ready returns nil when the service can do its work, otherwise the reason.
	Ready    func() error
	Gatherer prometheus.Gatherer
	// Status, if set, is served at /status.
	Status http.Handler
	// More holds further handlers by pattern.
	More map[string]http.Handler
	// Reload, if set, is served at POST /reload.
	Reload http.Handler
	Logger *slog.Logger
}

// Server is the operations server of one process.
type Server struct {
	ln  net.Listener
	srv *http.Server
}

// New binds the listener. Run must be called to serve it, or Close to free it.
func New(o Options) (*Server, error) {
	ln, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for operations: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := o.Ready(); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.Gatherer, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	if o.Status != nil {
		mux.Handle("GET /status", o.Status)
	}
	for pattern, h := range o.More {
		mux.Handle(pattern, h)
	}
	if o.Reload != nil { // a web page in a browser on this machine must not cause a reload
		mux.Handle("POST /reload", http.NewCrossOriginProtection().Handler(o.Reload))
	}
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return &Server{ln: ln, srv: &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
	}}, nil
}

// Addr returns the bound address.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// Close frees the listener of a server that was never run.
func (s *Server) Close() error { return s.ln.Close() }

// Run serves until ctx ends. Then running requests have one second to finish.
func (s *Server) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- s.srv.Serve(s.ln) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve operations: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := s.srv.Shutdown(stop); err != nil {
		s.srv.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve operations: %w", err)
	}
	return nil
}
