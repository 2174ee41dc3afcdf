package tail

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/pollcast/pollcast/pkg/client"
	"github.com/pollcast/pollcast/pkg/daemon"
	"github.com/pollcast/pollcast/pkg/topic"
	"github.com/pollcast/pollcast/pkg/wire"
)

// The default of -url, and the variables that change defaults.
const (
	DefaultURL    = "ws://localhost:12080/v1/ws"
	urlVariable   = "POLLCAST_URL"
	tokenVariable = "POLLCAST_TOKEN"
)

const usage = `Prints events and freshness as they come, until Ctrl-C.

  pollcast tail [flags] [topic or pattern ...]

Without topics everything is printed. "*" stands for one token of a topic, ">"
at the end for the rest; quote them: pollcast tail 'host.>' eth.head

`

// Options are the settings of Run.
type Options struct {
	// URL of the gateway's WebSocket; empty means DefaultURL.
	URL string
	// Token is sent as a bearer token; may be empty.
	Token string
	// Topics are topics or patterns; none means everything.
	Topics []string
	// JSON prints an object per line: the frames as received, and the client's
	// own updates with "local": true.
	JSON bool
	// Count ends Run after so many events; 0: never.
	Count int
	// Plain switches off colours on a terminal.
	Plain bool

	terminal func() (width int, ok bool) // of stdout, for tests
}

// errUsage is a mistake on the command line.
var errUsage = errors.New("usage")

// Command runs `pollcast tail`: flags, and then Run. It returns the exit code,
// which is 0 also after an interrupt and when stdout was closed.
func Command(ctx context.Context, args, env []string, stdout, stderr io.Writer) int {
	o, err := parse(args, env, stderr)
	if err == nil {
		err = Run(ctx, o, stdout, stderr)
	}
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return daemon.ExitOK
	case errors.Is(err, errUsage):
		return daemon.ExitConfig
	}
	fmt.Fprintf(stderr, "pollcast tail: %v\n", err)
	return daemon.ExitFailed
}

// parse reads the command line. Topics and flags may come in any order. It prints
// mistakes on stderr.
func parse(args, env []string, stderr io.Writer) (Options, error) {
	o := Options{URL: DefaultURL, Token: daemon.Getenv(env, tokenVariable)}
	if u := daemon.Getenv(env, urlVariable); u != "" {
		o.URL = u
	}
	// https://no-color.org: set and not empty. A dumb terminal has no colours
	// either.
	o.Plain = daemon.Getenv(env, "NO_COLOR") != "" || daemon.Getenv(env, "TERM") == "dumb"

	flags := flag.NewFlagSet("pollcast tail", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	flags.StringVar(&o.URL, "url", o.URL, "`address` of the gateway's WebSocket ("+urlVariable+")")
	// The token's default is not shown: it is a secret.
	token := flags.String("token", "",
		"bearer `token` for the gateway ("+tokenVariable+", which other users of this machine cannot see)")
	flags.BoolVar(&o.JSON, "json", false, "print one JSON object per line")
	flags.IntVar(&o.Count, "count", 0, "end after this `number` of events")
	for {
		if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
			return o, err
		} else if err != nil {
			return o, fmt.Errorf("%w: %w", errUsage, err) // flags has printed it
		}
		if flags.NArg() == 0 {
			break
		}
		o.Topics = append(o.Topics, flags.Arg(0))
		args = flags.Args()[1:]
	}
	if *token != "" {
		o.Token = *token
	}
	for _, t := range o.Topics {
		if err := topic.CheckPattern(t); err != nil {
			fmt.Fprintf(stderr, "pollcast tail: %v\n", err)
			return o, fmt.Errorf("%w: %w", errUsage, err)
		}
	}
	if o.Count < 0 {
		fmt.Fprintf(stderr, "pollcast tail: -count %d: it must not be negative\n", o.Count)
		return o, errUsage
	}
	return o, nil
}

// printer writes updates.
type printer interface {
	print(client.Update) error
}

// Run prints until ctx ends or Count is reached; then, and when stdout is closed,
// it returns nil. Otherwise it returns why the gateway closed the connection for
// good.
func Run(ctx context.Context, o Options, stdout, stderr io.Writer) error {
	if o.URL == "" {
		o.URL = DefaultURL
	}
	if len(o.Topics) == 0 {
		o.Topics = []string{">"}
	}
	if o.terminal == nil {
		o.terminal = func() (int, bool) { return terminalWidth(stdout) }
	}
	co := client.Options{URL: o.URL}
	if o.Token != "" {
		co.Token = func(context.Context) (string, error) { return o.Token, nil }
	}
	c, err := client.New(co)
	if err != nil {
		return err
	}
	defer c.Close()
	sub, err := c.Subscribe(ctx, o.Topics, client.SubscribeOptions{Buffer: 1024})
	if err != nil {
		return explain(err, o)
	}
	out := bufio.NewWriterSize(stdout, 64<<10)
	var p printer = newLines(out, o.terminal, o.Plain)
	if o.JSON {
		p = newObjects(out)
	}
	err = follow(ctx, o, sub, p, out, stderr)
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe) {
		return nil // stdout was closed, for example by head
	}
	return explain(err, o)
}

func follow(ctx context.Context, o Options, sub *client.Subscription, p printer, out *bufio.Writer,
	stderr io.Writer) error {
	events, warned, connected := 0, false, false
	missing := newUnmatched(o.Topics)
	defer missing.timer.Stop()
	for {
		var u client.Update
		var open bool
		select {
		case u, open = <-sub.Updates():
		default: // no update waits: print what is buffered
			if err := out.Flush(); err != nil {
				return err
			}
			select {
			case u, open = <-sub.Updates():
			case <-missing.timer.C:
				if notice := missing.notice(); notice != "" {
					fmt.Fprintln(stderr, "pollcast tail:", notice)
				}
				continue
			}
		}
		if !open || ctx.Err() != nil {
			if err := out.Flush(); err != nil {
				return err
			}
			return sub.Err()
		}
		if cu, is := u.(*client.Connection); is {
			switch {
			case connected || isPermanent(cu.Err):
			case cu.Connected:
				connected = true
				missing.timer.Reset(unmatchedAfter)
				if warned {
					fmt.Fprintln(stderr, "pollcast tail: connected to", cu.Gateway)
				}
			default:
				warned = true
				fmt.Fprintf(stderr, "pollcast tail: cannot reach %s: %v; trying again\n", address(o.URL), cu.Err)
			}
		}
		missing.see(u)
		if err := p.print(u); err != nil {
			return err
		}
		if _, is := u.(*client.Event); is {
			if events++; events == o.Count {
				return out.Flush()
			}
		}
	}
}

func isPermanent(err error) bool {
	ce, ok := errors.AsType[*client.CloseError](err)
	return ok && !ce.Code.Reconnect()
}

// explain returns an error with a sentence about the reason.
func explain(err error, o Options) error {
	if ce, ok := errors.AsType[*client.CloseError](err); ok {
		switch {
		case ce.Code == wire.CloseUnauthorized && o.Token == "":
			return fmt.Errorf("the gateway at %s wants a token: give it with -token or in %s (%w)", address(o.URL),
				tokenVariable, err)
		case ce.Code == wire.CloseUnauthorized:
			return fmt.Errorf("the gateway at %s does not accept the token (%w)", address(o.URL), err)
		case ce.Code == wire.CloseForbidden:
			return fmt.Errorf("the gateway at %s does not let this token in (%w)", address(o.URL), err)
		case ce.Code == wire.CloseTooManyConnections:
			return fmt.Errorf("the gateway at %s holds as many connections of this user or address as it may (%w)",
				address(o.URL), err)
		}
		return fmt.Errorf("the gateway at %s has closed the connection for good (%w)", address(o.URL), err)
	}
	if e, ok := errors.AsType[*client.Error](err); ok {
		return fmt.Errorf("the gateway at %s refuses %s: %s (%s)", address(o.URL), strings.Join(o.Topics, " "), e.Message,
			e.Code)
	}
	return err
}

// address returns the URL without the parts that may be secret.
func address(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "the gateway"
	}
	return u.Scheme + "://" + u.Host + u.Path
}

func clockTime(t time.Time) string { return t.Format("15:04:05.000") }
