// Command pollcast is everything in one binary: `pollcast up` runs all
// services in one process, the other verbs talk to running ones.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/pollcast/pollcast/pkg/daemon"
	"github.com/pollcast/pollcast/services/pollcast/check"
	"github.com/pollcast/pollcast/services/pollcast/reload"
	"github.com/pollcast/pollcast/services/pollcast/tail"
	"github.com/pollcast/pollcast/services/pollcast/up"
)

const usage = `Pollcast turns RPCs that you would have to poll into live feeds that you can trust.

  pollcast up                 run everything in one process and watch this host
  pollcast tail 'host.>'      print events and freshness as they come
  pollcast check FILE         check a configuration file
  pollcast reload             have a poller on this machine read its configuration again
  pollcast version            print what was built

Each takes -help.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	code := run(ctx, stop, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, stop func(), args, env []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return 2
	}
	verb, args := args[0], args[1:]
	switch verb {
	case "up":
		hangups, deaf := daemon.Hangups(stop)
		defer deaf()
		return up.Command(ctx, hangups, args, env, stdout, stderr)
	case "reload":
		return reload.Command(ctx, args, stdout, stderr)
	case "tail":
		return tail.Command(ctx, args, env, stdout, stderr)
	case "check":
		return check.Command(args, env, stdout, stderr)
	case "version", "-version", "--version":
		fmt.Fprintln(stdout, daemon.Version("pollcast"))
		return 0
	case "help", "-h", "-help", "--help":
		if len(args) > 0 && args[0] != "help" {
			return run(ctx, stop, []string{args[0], "-help"}, env, stdout, stderr)
		}
		fmt.Fprint(stdout, usage)
		return 0
	}
	fmt.Fprintf(stderr, "pollcast: %q is no verb\n\n%s", verb, usage)
	return 2
}
