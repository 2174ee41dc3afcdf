package hostrpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The timeouts of the HTTP server. A slow fault may last longer than any of them:
// http.go extends the deadlines of that request.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	writeTimeout      = 30 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 32 << 10

	drainTimeout = 5 * time.Second
	// maxInFlight bounds the requests that are read or answered and, separately,
	// the requests that a fault delays.
	maxInFlight = 256
)

// ErrRan is the error of a second Run and of a Run after Close.
var ErrRan = errors.New("hostrpc server was run or closed already")

// Options are the parts of a [Server]. Only Config is required.
type Options struct {
	Config Config
	Logger *slog.Logger
	// Registerer receives the server's metrics. Two servers need two, or one that
	// is wrapped with distinct labels.
	Registerer prometheus.Registerer
	// Gatherer, when set, is served at GET /metrics.
	Gatherer prometheus.Gatherer
}

// Server is a hostrpc server, bound by New and served by Run. Its methods may be
// called from several goroutines.
type Server struct {
	config   Config
	log      *slog.Logger
	metrics  *metrics
	faults   *Faults
	sampler  *sampler
	storage  *storage
	methods  map[string]*method
	names    []string // of the methods, in the order of rpc.methods
	listener net.Listener
	http     *http.Server

	started  time.Time
	slots    chan struct{} // requests being read or answered
	held     chan struct{} // requests that a fault delays
	spoiled  atomic.Uint64 // garbage answers so far
	stopping chan struct{} // closed by Run: delayed requests end
	ran      atomic.Bool
}

// New checks the configuration, binds the address and takes the first sample. It
// fails with [ErrConfig] for a bad configuration. The Server must be Run or
// Closed.
func New(ctx context.Context, o Options) (*Server, error) {
	if err := o.Config.validate(); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", o.Config.Listen)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen on %s: another program uses this address: stop it, or choose another address (%w)",
			o.Config.Listen, syscall.EADDRINUSE)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", o.Config.Listen, err)
	}
	// This comes after the listener: a registry must not keep the metrics of a
	// server that failed to start.
	metrics, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("register metrics: %w", err), listener.Close())
	}
	s := &Server{
		config:   o.Config,
		log:      o.Logger,
		metrics:  metrics,
		sampler:  newSampler(o.Logger, metrics),
		storage:  newStorage(),
		listener: listener,
		started:  time.Now(),
		slots:    make(chan struct{}, maxInFlight),
		held:     make(chan struct{}, maxInFlight),
		stopping: make(chan struct{}),
	}
	s.faults = newFaults(o.Config.AllowFaults, o.Logger, metrics)
	s.addMethods()
	s.http = &http.Server{
		Handler:           s.routes(o.Gatherer),
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn),
	}
	s.sampler.sample(ctx)
	return s, nil
}

// Addr returns the bound address, host:port, with the real port when Listen has
// port 0.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Faults returns the faults that the methods fault.* set.
func (s *Server) Faults() *Faults { return s.faults }

// Close releases the address of a server that will not be Run. After Run it
// does nothing.
func (s *Server) Close() error {
	if !s.ran.CompareAndSwap(false, true) {
		return nil
	}
	if err := s.listener.Close(); err != nil {
		return fmt.Errorf("close listener: %w", err)
	}
	return nil
}

// Run serves until ctx ends. Then it answers the requests in flight, for at most
// five seconds, and returns nil. Requests that a fault delays are cut at once.
func (s *Server) Run(ctx context.Context) error {
	if !s.ran.CompareAndSwap(false, true) {
		return ErrRan
	}
	// work outlives ctx: requests in flight still read samples while draining.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	s.http.BaseContext = func(net.Listener) context.Context { return work }

	var owned sync.WaitGroup
	owned.Go(func() { s.sampler.run(work) })
	served := make(chan error, 1)
	owned.Go(func() { served <- s.http.Serve(s.listener) })
	s.log.Info("hostrpc serves", "address", s.Addr(), "faults_allowed", s.config.AllowFaults)
	if s.config.AllowFaults && !isLoopback(s.listener.Addr()) {
		s.log.Warn("every client of this address may set faults", "address", s.Addr())
	}

	var failure error
	select {
	case <-ctx.Done():
	case err := <-served:
		failure = fmt.Errorf("serve on %s: %w", s.Addr(), err)
	}
	close(s.stopping)
	drain, stop := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer stop()
	if err := s.http.Shutdown(drain); err != nil {
		s.log.Warn("requests were cut, they did not end in time", "limit", drainTimeout)
		_ = s.http.Close() // the listener is closed; this closes the connections
	}
	cancel()
	owned.Wait()
	if !s.storage.wait(drain) {
		s.log.Warn("a mounted file system does not answer, its reader is left behind")
	}
	s.log.Info("hostrpc stopped")
	return failure
}

func isLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}
