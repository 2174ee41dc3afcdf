//go:build linux

package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	var (
		kind   = flag.String("serve", "", "run one server: gateway, floor or hub")
		url    = flag.String("nats", "", "its NATS server")
		prefix = flag.String("prefix", "", "its prefix there")
		driver = flag.Bool("drive", false, "run clients that do the tasks on standard input")
		which  = flag.String("rows", "", "only these rows, such as one,sets; empty: all")
		rounds = flag.Int("rounds", 5, "rounds of each row")
		poller = flag.String("poller", "bin/poller", "the poller's program, for the row walk")
		page   = flag.String("page", "", "put the table into this Markdown page, between its markers")
		svg    = flag.String("svg", "", "draw the result into this file")
	)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case *kind != "":
		err = serve(ctx, *kind, *url, *prefix)
	case *driver:
		err = drive(ctx, *url, *prefix)
	default:
		err = table(ctx, options{rows: *which, rounds: *rounds, poller: *poller, page: *page, svg: *svg})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	rows              string
	rounds            int
	poller, page, svg string
}

// table runs the rows and prints each as soon as it is known.
func table(ctx context.Context, o options) error {
	if err := manyFiles(); err != nil {
		return err
	}
	chosen := rows
	if o.rows != "" {
		chosen = nil
		for key := range strings.SplitSeq(o.rows, ",") {
			i := slices.IndexFunc(rows, func(r row) bool { return r.key == key })
			if i < 0 {
				return fmt.Errorf("-rows: no row %q", key)
			}
			chosen = append(chosen, rows[i])
		}
	}
	rep := report{machine: machine(), date: time.Now().UTC()}
	fmt.Printf("%s, %s\n\n%s", rep.machine, rep.date.Format(time.DateOnly), tableHead)
	for _, r := range chosen {
		out, err := r.run(ctx, r, o)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		rep.rows = append(rep.rows, out)
		fmt.Print(out.lines())
	}
	if o.svg != "" {
		if err := os.WriteFile(o.svg, rep.svg(), 0o644); err != nil {
			return err
		}
	}
	if o.page != "" {
		return rep.into(o.page)
	}
	return nil
}

// manyFiles raises the limit of open files to its maximum. It fails when that is
// not enough for the largest row.
func manyFiles() error {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	lim.Cur = lim.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	if want := uint64(10_500); lim.Cur < want {
		return fmt.Errorf("%d open files are too few for 10,000 clients: raise the hard limit (ulimit -Hn) to %d",
			lim.Cur, want)
	}
	return nil
}
