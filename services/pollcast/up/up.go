// Package up runs everything in one process: NATS, hostrpc, a poller and a
// gateway, wired by the same doors that the separate services use.
//
//	hostrpc ◄── poller ──► NATS (embedded, JetStream on disk) ──► gateway ──► browser
package up

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/daemon"
	"github.com/pollcast/pollcast/services/gateway"
	"github.com/pollcast/pollcast/services/hostrpc"
	"github.com/pollcast/pollcast/services/poller"
)

// Default is the configuration that `pollcast up` runs without a file: it
// watches this host. It is also the example to start one's own from.
//
//go:embed pollcast.yaml
var Default []byte

// Config is the whole configuration file: a section per service.
type Config struct {
	NATS    bus.Config     `yaml:"nats"`
	HostRPC hostrpc.Config `yaml:"hostrpc"`
	Poller  poller.Config  `yaml:"poller"`
	Gateway gateway.Config `yaml:"gateway"`
	Log     daemon.Log     `yaml:"log"`
}

// Check holds the sections against each other.
func (c *Config) Check(report func(path, problem, fix string)) {
	poller.CheckSections(c.Poller, c.NATS, report)
}

// DefaultConfig returns what an empty file means for `pollcast up`.
func DefaultConfig() Config {
	c := Config{
		NATS: bus.DefaultConfig(), HostRPC: hostrpc.DefaultConfig(), Poller: poller.DefaultConfig(),
		Gateway: gateway.DefaultConfig(), Log: daemon.DefaultLog(),
	}
	c.Gateway.Listen = "127.0.0.1:12080"         // there is no login, and the page can break things
	c.Gateway.DrainTime = 500 * time.Millisecond // nobody else takes its clients
	c.HostRPC.AllowFaults = true                 // the console's switches
	return c
}

// Options of Run.
type Options struct {
	Config Config
	// State is the directory of everything kept across restarts.
	State string
	// PublicNATS lets NATS listen where other machines reach it.
	PublicNATS bool
	Logger     *slog.Logger
	// Ready, if set, is called once everything runs.
	Ready func(Addresses)
	// Load, if set, reads the configuration again into one that holds the
	// defaults; every hangup asks for that, and POST /reload.
	Load    func(*Config) error
	Hangups <-chan struct{}
}

// Addresses are where a running instance is reached.
type Addresses struct {
	Clients, Operations, NATS, HostRPC, State string
}

// Command is `pollcast up`: flags, and then Run. It returns the exit code.
// hangups tells of every SIGHUP.
func Command(ctx context.Context, hangups <-chan struct{}, args, env []string, stdout, stderr io.Writer) int {
	fail := func(code int, err error) int {
		daemon.Complain(stderr, "pollcast up", err)
		return code
	}
	flags := flag.NewFlagSet("pollcast up", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var f daemon.Flags
	f.Register(flags)
	state := flags.String("state", "", "`directory` to keep the last values in (default: pollcast in the user's state directory)")
	publicNATS := flags.Bool("public-nats", false,
		"let nats.url be an address that other machines reach: they can read all values without a password")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return daemon.ExitOK
	} else if err != nil {
		return daemon.ExitConfig
	}
	if flags.NArg() > 0 {
		return fail(daemon.ExitConfig, fmt.Errorf("%q is not understood: there are flags only, -help lists them", flags.Arg(0)))
	}
	cfg := DefaultConfig()
	if err := Load(&cfg, f, env); err != nil {
		return fail(daemon.ExitConfig, err)
	}
	if *state == "" {
		dir, err := stateDir(env)
		if err != nil {
			return fail(daemon.ExitFailed, err)
		}
		*state = dir
	}
	logger := cfg.Log.Logger(stderr)
	err := Run(ctx, Options{
		Config: cfg, State: *state, PublicNATS: *publicNATS, Logger: logger,
		Load: func(c *Config) error { return Load(c, f, env) }, Hangups: hangups,
		Ready: func(a Addresses) {
			fmt.Fprint(stdout, a.banner())
			logger.Info("everything runs", "build", daemon.Build())
		},
	})
	if err != nil {
		return fail(daemon.ExitFailed, err)
	}
	fmt.Fprintln(stdout, "Stopped. The last values are kept in", *state)
	return daemon.ExitOK
}

// Load fills cfg from the flags' file or, without one, from Default.
func Load(cfg *Config, f daemon.Flags, env []string) error {
	if f.File != "" || daemon.Getenv(env, daemon.FileVariable) != "" {
		return f.Load(cfg, env)
	}
	if err := f.LoadData(cfg, "(built in)", Default, env); err != nil {
		return err
	}
	cfg.askOwnHostRPC()
	return nil
}

// askOwnHostRPC has Default's source ask the hostrpc of this process wherever
// that listens: at its default address may be somebody else's.
func (c *Config) askOwnHostRPC() {
	host, ok := c.Poller.Sources["host"]
	if !ok || !slices.Equal(host.Upstreams, []string{"http://" + hostrpc.DefaultListen + "/"}) {
		return // told otherwise
	}
	name, port, err := net.SplitHostPort(c.HostRPC.Listen)
	if err != nil {
		return // Check has refused it
	}
	if ip := net.ParseIP(name); name == "" || ip != nil && ip.IsUnspecified() {
		name = "127.0.0.1"
	}
	host.Upstreams = []string{"http://" + net.JoinHostPort(name, port) + "/"}
	c.Poller.Sources["host"] = host
}

// stateDir is $XDG_STATE_HOME/pollcast or ~/.local/state/pollcast (XDG Base
// Directory Specification).
func stateDir(env []string) (string, error) {
	if dir := daemon.Getenv(env, "XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "pollcast"), nil
	}
	home := daemon.Getenv(env, "HOME")
	if home == "" {
		return "", errors.New("no home directory to keep the last values in; name one with -state")
	}
	return filepath.Join(home, ".local", "state", "pollcast"), nil
}

// Run runs everything until ctx ends, and stops it in the order of the walk.
func Run(ctx context.Context, o Options) error {
	g := newGroup()
	defer g.stop()
	unlock, err := lock(o.State)
	if err != nil {
		return err
	}
	g.onStop(unlock)
	if err := free(o.Config); err != nil {
		return err
	}
	log := func(service string) *slog.Logger { return o.Logger.With("service", service) }

	srv, nats, err := startNATS(o.Config.NATS, filepath.Join(o.State, "nats"), o.PublicNATS, log("nats"))
	if err != nil {
		return err
	}
	g.onStop(srv.stop)

	registry := daemon.NewRegistry()
	host, err := hostrpc.New(ctx, hostrpc.Options{Config: o.Config.HostRPC, Logger: log("hostrpc"), Registerer: registry})
	if err != nil {
		return err
	}
	g.start(host.Run)

	reload, polling := new(daemon.Reloader), new(pollerStatus)
	gw, err := gateway.New(gateway.Options{
		Config: o.Config.Gateway, NATS: nats, InProcess: srv.server, Logger: log("gateway"), Registry: registry,
		Demo: demo(host, o.Config.HostRPC.AllowFaults), Reload: reload,
		Operations: map[string]http.Handler{"GET /poller/status": polling},
	})
	if err != nil {
		return err
	}
	g.start(gw.Run)

	p, err := poller.New(ctx, poller.Options{
		Config: o.Config.Poller, NATS: nats, InProcess: srv.server, Logger: log("poller"), Registerer: registry,
	})
	if err != nil {
		return err
	}
	g.start(p.Run)
	polling.show(p)
	g.heed(o, reload, p, log("poller"))

	if o.Ready != nil {
		o.Ready(Addresses{
			Clients: gw.Addr(), Operations: gw.OperationsAddr(),
			NATS: srv.addr(), HostRPC: host.Addr(), State: o.State,
		})
	}
	select {
	case <-ctx.Done():
		return g.stop()
	case err := <-g.failed:
		return errors.Join(err, g.stop())
	}
}

// free looks for addresses that something else has, before anything starts.
func free(c Config) error {
	u, err := url.Parse(c.NATS.URL)
	if err != nil {
		return fmt.Errorf("nats.url %q: %w", c.NATS.URL, err)
	}
	for _, a := range []struct{ what, setting, addr string }{
		{"clients", "gateway.listen", c.Gateway.Listen},
		{"NATS", "nats.url", u.Host},
		{"hostrpc", "hostrpc.listen", c.HostRPC.Listen},
		{"operations", "gateway.operations", c.Gateway.Operations},
	} {
		if a.addr == "" {
			continue
		}
		ln, err := net.Listen("tcp", a.addr)
		if err != nil {
			return fmt.Errorf("the address %s for %s is taken or not to be had (%w): is Pollcast running already? Otherwise choose another, for example with -set %s=%s",
				a.addr, a.what, cause(err), a.setting, suggestion(a.setting))
		}
		ln.Close()
	}
	return nil
}

func cause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

func suggestion(setting string) string {
	switch setting {
	case "nats.url":
		return "nats://127.0.0.1:14222"
	case "hostrpc.listen":
		return "127.0.0.1:22090"
	case "gateway.operations":
		return "127.0.0.1:22081"
	}
	return "127.0.0.1:22080"
}

func (a Addresses) banner() string {
	_, port, _ := net.SplitHostPort(a.Clients) // it is bound, so it is an address
	_, natsPort, _ := net.SplitHostPort(a.NATS)
	server, url := "", ""
	if natsPort != "4222" {
		server = " --server " + a.NATS
	}
	if port != "12080" {
		url = " -url ws://localhost:" + port + "/v1/ws"
	}
	return fmt.Sprintf(`
Pollcast is up.

  Console     http://localhost:%[1]s
  WebSocket   ws://localhost:%[1]s/v1/ws?topics=>
  Terminal    %[7]s tail%[6]s '>'
  NATS        nats sub%[2]s 'pollcast.live.>'
  Upstream    http://%[3]s, this host's own readings
  Operations  http://%[4]s/metrics
  Polling     http://%[4]s/poller/status
  State       %[5]s

Ctrl-C ends it.

`, port, server, a.HostRPC, a.Operations, a.State, url, os.Args[0])
}

// demo is the console's fault switches, where hostrpc allows faults.
func demo(host *hostrpc.Server, allowed bool) http.Handler {
	if !allowed {
		return nil
	}
	return host.FaultsHandler()
}
