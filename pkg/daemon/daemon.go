// Package daemon is what the main functions of all services share: flags, the
// configuration file, logs, signals, exit codes.
package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pollcast/pollcast/pkg/config"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Exit codes.
const (
	ExitOK     = 0
	ExitFailed = 1
	ExitConfig = 2 // a mistake in the configuration or on the command line
)

// FileVariable is the variable that names the configuration file when no flag
// does.
const FileVariable = "POLLCAST_CONFIG"

// Log is the configuration's section about logs.
type Log struct {
	Format string `yaml:"format" doc:"text for people, json for programs"`
	Level  string `yaml:"level" doc:"debug, info, warn or error"`
}

// DefaultLog returns the section's defaults.
func DefaultLog() Log { return Log{Format: "text", Level: "info"} }

// Check reports every mistake in the section.
func (l *Log) Check(report func(path, problem, fix string)) {
	if l.Format != "text" && l.Format != "json" {
		report("format", fmt.Sprintf("%q is no format", l.Format), "write text or json")
	}
	var level slog.Level
	if level.UnmarshalText([]byte(l.Level)) != nil {
		report("level", fmt.Sprintf("%q is no level", l.Level), "write debug, info, warn or error")
	}
}

// Logger returns the logger of a checked section.
func (l *Log) Logger(w io.Writer) *slog.Logger {
	o := new(slog.HandlerOptions)
	var level slog.Level
	_ = level.UnmarshalText([]byte(l.Level)) // Check has accepted it
	o.Level = level
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// Service is one service's part in Main.
type Service struct {
	Name string
	// Config points to the configuration's root struct, filled with defaults.
	Config any
	// Log points into Config.
	Log *Log
	// Run runs the service, on the loaded configuration, until ctx ends.
	Run func(ctx context.Context, logger *slog.Logger, registry *prometheus.Registry) error
	// Reload, if set, handles SIGHUP; Run registers what it does (Reloader.Use).
	Reload *Reloader

	hangups <-chan struct{}
}

// Main runs a service as a process and exits. SIGINT and SIGTERM stop it in
// order; a second one kills it. SIGHUP makes it read its configuration again.
func Main(s Service) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	hangups, stopHangups := Hangups(stop)
	s.hangups = hangups
	code := Exec(ctx, s, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stopHangups()
	stop()
	os.Exit(code)
}

// Exec is Main without the process: it returns the exit code.
func Exec(ctx context.Context, s Service, args, env []string, stdout, stderr io.Writer) int {
	fail := func(code int, err error) int {
		Complain(stderr, s.Name, err)
		return code
	}
	flags := flag.NewFlagSet(s.Name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	var f Flags
	f.Register(flags)
	check := flags.Bool("check", false, "check the configuration and exit: 0 is good, 2 is not")
	print := flags.Bool("print-config", false, "print the configuration in effect, without secrets, and exit")
	health := flags.String("healthcheck", "", "get this `URL` and exit: 0 when it answers 200")
	reload := flags.String("reload", "",
		"make the process with this operations `address`, such as http://127.0.0.1:12082, "+
			"read its configuration again, and exit: 0 is done, 2 is refused")
	version := flags.Bool("version", false, "print what was built and exit")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return ExitOK
	} else if err != nil {
		return ExitConfig
	}
	if *version {
		fmt.Fprintln(stdout, Version(s.Name))
		return ExitOK
	}
	if flags.NArg() > 0 {
		return fail(ExitConfig, fmt.Errorf("%q is not understood: there are flags only, -help lists them", flags.Arg(0)))
	}
	if *health != "" {
		if err := healthcheck(ctx, *health); err != nil {
			return fail(ExitFailed, err)
		}
		return ExitOK
	}
	if *reload != "" {
		return RequestReload(ctx, *reload, s.Name, stdout, stderr)
	}
	if err := f.Load(s.Config, env); err != nil {
		return fail(ExitConfig, err)
	}
	switch {
	case *check:
		fmt.Fprintln(stdout, "the configuration is good")
		return ExitOK
	case *print:
		out, err := config.Print(s.Config, f.source(f.file(env), nil, env))
		if err != nil {
			return fail(ExitFailed, err)
		}
		_, _ = stdout.Write(out) // there is no place to report a failure
		return ExitOK
	}
	logger := s.Log.Logger(stderr).With("service", s.Name)
	logger.Info("starting", "build", Build())
	if s.Reload != nil {
		s.Reload.Bind(func(into any) error { return f.Load(into, env) }, logger)
	}
	done := make(chan struct{})
	var heeding sync.WaitGroup
	heeding.Go(func() { Heed(done, s.hangups, s.Reload, logger) })
	err := s.Run(ctx, logger, NewRegistry())
	close(done)
	heeding.Wait()
	if err != nil {
		logger.Error("stopped", "error", err)
		return ExitFailed
	}
	logger.Info("stopped")
	return ExitOK
}

// Complain prints why a command fails, after the command's name. The mistakes of
// a configuration are printed without it: their lines begin with their place,
// which editors can read.
func Complain(w io.Writer, name string, err error) {
	if _, ok := errors.AsType[*config.Error](err); ok {
		fmt.Fprintln(w, err)
		return
	}
	fmt.Fprintf(w, "%s: %v\n", name, err)
}

// Flags are the flags that select the configuration.
type Flags struct {
	File string
	Sets []string
}

// Register adds the flags to a set.
func (f *Flags) Register(flags *flag.FlagSet) {
	flags.StringVar(&f.File, "config", "", "configuration `file` (or "+FileVariable+")")
	flags.Func("set", "`path=value` of one setting, such as gateway.listen=:8080; may be repeated", func(v string) error {
		f.Sets = append(f.Sets, v)
		return nil
	})
}

// Load fills a configuration from the file, the environment and the flags.
func (f *Flags) Load(into any, env []string) error {
	return f.LoadData(into, f.file(env), nil, env)
}

// file returns the name of the configuration's file; "" for none.
func (f *Flags) file(env []string) string {
	if f.File != "" {
		return f.File
	}
	return Getenv(env, FileVariable)
}

// LoadData is Load with the content of the file; nil data: it is read.
func (f *Flags) LoadData(into any, file string, data []byte, env []string) error {
	return config.Load(into, f.source(file, data, env))
}

func (f *Flags) source(file string, data []byte, env []string) config.Source {
	return config.Source{File: file, Data: data, Env: env, Reserved: reserved, Sets: f.Sets}
}

// reserved are the variables that are no settings: those of the command line,
// and those of docker-compose.yml and the tests.
var reserved = []string{
	FileVariable, "POLLCAST_URL", "POLLCAST_TOKEN",
	"POLLCAST_LISTEN", "POLLCAST_NATS_LISTEN", "POLLCAST_DEMO", "POLLCAST_NATS_CLI",
}

// Getenv is os.Getenv on an environment as os.Environ gives it.
func Getenv(env []string, name string) string {
	value := ""
	for _, v := range env {
		if after, ok := strings.CutPrefix(v, name+"="); ok {
			value = after // the last one counts, as in a process
		}
	}
	return value
}

// NewRegistry returns a registry with the metrics of the Go runtime and the
// process.
func NewRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// healthcheck gets a URL, as curl does, which images made from scratch lack.
func healthcheck(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("check health: %w", err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("check health: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(res.Body, 300)) // only for the message
		return fmt.Errorf("check health: %s: %s: %s", url, res.Status, strings.TrimSpace(string(body)))
	}
	return nil
}
