// Package check is `pollcast check`: it reads a configuration file as every
// service does and prints its mistakes. For a good file it prints how soon each
// poll is stale, its breaker open, and both well again.
package check

import (
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/pkg/daemon"
	"github.com/pollcast/pollcast/services/pollcast/up"
	"github.com/pollcast/pollcast/services/poller"
)

// Command runs the verb and returns the exit code: 0 for a good configuration,
// 2 for one with mistakes.
func Command(args, env []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("pollcast check", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var f daemon.Flags
	f.Register(flags)
	schema := flags.Bool("schema", false, "print the file's JSON Schema, for editors, and exit")
	reference := flags.Bool("reference", false, "print every setting with its default, as Markdown, and exit")
	var files []string // flags may come before and after them
	for {
		if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
			return daemon.ExitOK
		} else if err != nil {
			return daemon.ExitConfig
		}
		if flags.NArg() == 0 {
			break
		}
		files = append(files, flags.Arg(0))
		args = flags.Args()[1:]
	}
	cfg := up.DefaultConfig()
	switch {
	case *schema:
		fmt.Fprintf(stdout, "%s\n", config.JSONSchema(&cfg))
		return daemon.ExitOK
	case *reference:
		fmt.Fprint(stdout, config.Reference(&cfg))
		return daemon.ExitOK
	case len(files) > 1 || len(files) == 1 && f.File != "":
		fmt.Fprintln(stderr, "pollcast check: one file at a time")
		return daemon.ExitConfig
	case len(files) == 1:
		f.File = files[0]
	}
	if err := up.Load(&cfg, f, env); err != nil {
		daemon.Complain(stderr, "pollcast check", err)
		return daemon.ExitConfig
	}
	fmt.Fprintln(stdout, "the configuration is good")
	if len(cfg.Poller.Sources) > 0 {
		fmt.Fprintln(stdout)
		if err := poller.WriteFeasibility(stdout, cfg.Poller); err != nil {
			fmt.Fprintf(stderr, "pollcast check: %v\n", err)
			return daemon.ExitFailed
		}
	}
	return daemon.ExitOK
}
