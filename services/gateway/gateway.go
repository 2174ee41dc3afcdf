package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/pollcast/pollcast/pkg/admin"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/services/gateway/console"
	"github.com/prometheus/client_golang/prometheus"
)

// Options of New.
type Options struct {
	Config Config
	NATS   bus.Config
	// InProcess, if set, is an embedded NATS server to use instead of a socket.
	InProcess nats.InProcessConnProvider
	// Name is in welcome frames and logs, to distinguish gateways; empty: the host's.
	Name     string
	Logger   *slog.Logger
	Registry *prometheus.Registry
	// Demo, if set, is served at /demo/faults: the console's switches.
	Demo http.Handler
	// Operations is served as well at the operations address, by pattern.
	Operations map[string]http.Handler
	// Reload, if set, is served at POST /reload of the operations address.
	Reload http.Handler
}

// Gateway is one gateway. New binds its addresses; Run serves them.
type Gateway struct {
	opts   Options
	names  bus.Names
	server *server
	http   *http.Server
	ln     net.Listener
	admin  *admin.Server // nil: none configured

	started time.Time
	nc      atomic.Pointer[bus.Conn] // nil before Run
}

// New binds the addresses. A gateway that is not run must be closed.
func New(o Options) (*Gateway, error) {
	names, err := o.NATS.Names()
	if err != nil {
		return nil, err
	}
	if o.Name == "" {
		o.Name, _ = os.Hostname()
	}
	g := &Gateway{opts: o, names: names, started: time.Now().UTC()}
	g.server = newServer(o.Config, o.Name, runtime.GOMAXPROCS(0), newMetrics(o.Registry), o.Logger)
	if g.ln, err = net.Listen("tcp", o.Config.Listen); err != nil {
		return nil, fmt.Errorf("listen for clients: %w", err)
	}
	if o.Config.Operations != "" {
		g.admin, err = admin.New(admin.Options{
			Listen: o.Config.Operations, Ready: g.Ready, Gatherer: o.Registry, Logger: o.Logger,
			Status: http.HandlerFunc(g.serveStatus),
			More:   o.Operations, Reload: o.Reload,
		})
		if err != nil {
			g.ln.Close()
			return nil, err
		}
	}
	mux := g.server.routes(console.Handler())
	if o.Demo != nil {
		mux.Handle("/demo/faults", o.Demo)
	}
	g.http = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 2 * requestWait, // sockets.sweep comes first, with an answer
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
	}
	g.server.sockets.watch(g.http, o.Config.MaxConnections, g.server.budget, g.server.metrics.refused)
	return g, nil
}

// Addr is the address for clients.
func (g *Gateway) Addr() string { return g.ln.Addr().String() }

// OperationsAddr is the address for operations; empty when there is none.
func (g *Gateway) OperationsAddr() string {
	if g.admin == nil {
		return ""
	}
	return g.admin.Addr()
}

// Ready returns nil when the gateway can serve a snapshot and reads NATS.
func (g *Gateway) Ready() error { return g.server.ready() }

// Close frees the addresses of a gateway that is not run.
func (g *Gateway) Close() error {
	if g.admin == nil {
		return g.ln.Close()
	}
	return errors.Join(g.ln.Close(), g.admin.Close())
}

// Run serves until ctx ends, and then stops in the order of the walk: no new
// connections, clients sent elsewhere over the drain time, sockets, NATS.
func (g *Gateway) Run(ctx context.Context) error {
	nc, err := bus.Connect(bus.Options{
		Config: g.opts.NATS, Role: "gateway", Logger: g.opts.Logger, InProcess: g.opts.InProcess,
	})
	if err != nil {
		return errors.Join(err, g.Close())
	}
	defer nc.Close()
	g.nc.Store(nc)
	follower := &bus.Follower{Conn: nc, Names: g.names, Log: &intake{Hub: g.server.hub}, Logger: g.opts.Logger}
	g.server.readbacks.source = streamPast{follower, time.Now}

	// inner ends last and is stopped last: it lives while clients are drained.
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	failed := make(chan error, 3)
	wg.Go(func() { g.server.run(inner) })
	wg.Go(func() {
		if err := follower.Run(inner); err != nil {
			failed <- fmt.Errorf("follow the stream: %w", err)
		}
	})
	wg.Go(func() {
		if err := g.http.Serve(g.ln); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("serve clients: %w", err)
		}
	})
	if g.admin != nil {
		wg.Go(func() {
			if err := g.admin.Run(inner); err != nil {
				failed <- err
			}
		})
	}
	g.opts.Logger.Info("gateway listens", "clients", g.Addr(), "operations", g.OperationsAddr())

	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	g.server.drain()
	shut, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if g.http.Shutdown(shut) != nil {
		g.http.Close()
	}
	stop()
	wg.Wait()
	return err
}
