// Command hostrpc runs the JSON-RPC 2.0 server that reports on this host.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/pollcast/pollcast/services/hostrpc"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Getenv, os.Stderr)
	stop()
	os.Exit(code)
}

// run returns the exit code: 0 stopped or healthy, 1 failed, 2 bad
// configuration.
func run(ctx context.Context, args []string, getenv func(string) string, stderr io.Writer) int {
	config := hostrpc.DefaultConfig()
	flags := flag.NewFlagSet("hostrpc", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&config.Listen, "listen", cmp.Or(getenv("POLLCAST_HOSTRPC_LISTEN"), config.Listen), "`address` to listen on, host:port (POLLCAST_HOSTRPC_LISTEN)")
	allow, envErr := parseBool("POLLCAST_HOSTRPC_ALLOWFAULTS", getenv)
	flags.BoolVar(&config.AllowFaults, "allow-faults", allow, "let callers make methods fail, for demonstrations (POLLCAST_HOSTRPC_ALLOWFAULTS)")
	format := flags.String("log-format", "text", "log as text or json")
	level := flags.String("log-level", "info", "log from debug, info, warn or error on; debug has one line per request")
	check := flags.String("healthcheck", "", "get this `URL`, such as http://127.0.0.1:12090/healthz, and exit 0 when it answers 200")
	if err := flags.Parse(args); err != nil {
		return parseExit(err)
	}
	logger, logErr := newLogger(stderr, *format, *level)
	if err := errors.Join(envErr, logErr, noArguments(flags)); err != nil {
		return fail(stderr, 2, err)
	}
	if *check != "" {
		return fail(stderr, 1, healthcheck(ctx, *check))
	}
	registry := newRegistry()
	server, err := hostrpc.New(ctx, hostrpc.Options{Config: config, Logger: logger, Registerer: registry, Gatherer: registry})
	if errors.Is(err, hostrpc.ErrConfig) {
		return fail(stderr, 2, err)
	}
	if err == nil {
		err = server.Run(ctx)
	}
	return fail(stderr, 1, err)
}
