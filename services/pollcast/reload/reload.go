// Package reload is `pollcast reload`: it makes a running poller read its
// configuration again, and prints what changed or why it was refused.
package reload

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/pollcast/pollcast/pkg/daemon"
	"github.com/pollcast/pollcast/services/gateway"
	"github.com/pollcast/pollcast/services/poller"
)

// Command runs the verb and returns the exit code: 0 when the configuration is in
// effect, 2 when it was refused and the old one stays in effect, 1 when no poller
// answered.
func Command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	const name = "pollcast reload"
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	url := flags.String("url", "", "operations `address` of the poller, such as http://127.0.0.1:12082 "+
		"(default: that of a poller on this machine or, if there is none, of pollcast up)")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return daemon.ExitOK
	} else if err != nil {
		return daemon.ExitConfig
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "%s: %q is not understood: there are flags only, -help lists them\n", name, flags.Arg(0))
		return daemon.ExitConfig
	}
	if *url == "" {
		*url = "http://" + nearest(poller.DefaultOperations, gateway.DefaultConfig().Operations)
	}
	return daemon.RequestReload(ctx, *url, name, stdout, stderr)
}

// nearest returns the first address on which something listens; without one the
// first address.
func nearest(addrs ...string) string {
	for _, addr := range addrs {
		if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			c.Close()
			return addr
		}
	}
	return addrs[0]
}
