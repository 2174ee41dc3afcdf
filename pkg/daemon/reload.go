package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pollcast/pollcast/pkg/config"
)

// Changes is what a reload changed, by source, and what it could not change.
type Changes struct {
	Added     []string `json:"added"`
	Changed   []string `json:"changed"`
	Removed   []string `json:"removed"`
	Unchanged []string `json:"unchanged"`
	// Restart lists the settings whose new value needs a restart.
	Restart []string `json:"restart"`
}

// Apply reads the configuration again with load, into a struct that holds the
// defaults, and changes the running process accordingly. When it returns an error
// nothing has changed.
type Apply func(ctx context.Context, load func(into any) error) (Changes, error)

// ErrNotRunning means that the process is still starting.
var ErrNotRunning = errors.New("not running yet; try again")

// Reloader reads the configuration of a running process again, on SIGHUP and by
// POST /reload, one at a time. Its zero value refuses until Bind and Use.
type Reloader struct {
	mu    sync.Mutex
	load  func(into any) error
	log   *slog.Logger
	apply Apply
}

// Bind sets the function that loads the configuration.
func (r *Reloader) Bind(load func(into any) error, log *slog.Logger) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.load, r.log = load, log
}

// Use sets what a reload does, once the process runs.
func (r *Reloader) Use(apply Apply) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.apply = apply
}

// Reload reloads once and logs the result. A reload that has begun continues when
// ctx ends.
func (r *Reloader) Reload(ctx context.Context) (Changes, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.apply == nil || r.load == nil {
		return Changes{}, ErrNotRunning
	}
	c, err := r.apply(context.WithoutCancel(ctx), r.load)
	if err != nil {
		for _, line := range mistakes(err) {
			r.log.Error("configuration refused; the old one goes on", "error", line)
		}
		return Changes{}, err
	}
	r.log.Info("configuration reloaded", "added", c.Added, "changed", c.Changed, "removed", c.Removed, "unchanged",
		len(c.Unchanged))
	if len(c.Restart) > 0 {
		r.log.Warn("some changed settings wait for a restart", "settings", c.Restart)
	}
	return c, nil
}

// Heed reloads at every hangup until done is closed. Without a Reloader it logs
// that there is nothing to reload.
func Heed(done <-chan struct{}, hangups <-chan struct{}, r *Reloader, log *slog.Logger) {
	for {
		select {
		case <-done:
			return
		case <-hangups:
		}
		if r == nil {
			log.Info("SIGHUP changes nothing here; a restart reads the configuration again")
		} else if _, err := r.Reload(context.Background()); errors.Is(err, ErrNotRunning) {
			log.Warn("SIGHUP came before the start was over; send it again")
		}
	}
}

// mistakes splits an error into lines: a configuration has one line for each
// mistake.
func mistakes(err error) []string {
	if e, ok := errors.AsType[*config.Error](err); ok {
		return strings.Split(e.Error(), "\n")
	}
	return []string{err.Error()}
}

// answer is the JSON of POST /reload.
type answer struct {
	Reloaded bool `json:"reloaded"`
	*Changes
	Mistakes []string `json:"mistakes,omitempty"`
}

// ServeHTTP reloads and answers 200 with what changed, 422 with every mistake
// of the configuration, or 503 while the process starts.
func (r *Reloader) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	c, err := r.Reload(req.Context())
	a, code := answer{Reloaded: err == nil}, http.StatusOK
	if err == nil {
		for _, list := range []*[]string{&c.Added, &c.Changed, &c.Removed, &c.Unchanged, &c.Restart} {
			*list = slices.Concat([]string{}, *list) // [] and not null
		}
		a.Changes = &c
	} else if a.Mistakes = mistakes(err); errors.Is(err, ErrNotRunning) {
		code = http.StatusServiceUnavailable
	} else {
		code = http.StatusUnprocessableEntity
	}
	data, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(data, '\n')) // fails only when the client has gone
}

// reloadTime bounds a request to reload. Sources that change wait for their
// running calls.
const reloadTime = 30 * time.Second

// RequestReload asks the process with the operations address base, such as
// http://127.0.0.1:12082, to reload. It prints the answer and returns the exit
// code: ExitConfig if the configuration was refused, ExitFailed if there was no
// valid answer.
func RequestReload(ctx context.Context, base, name string, stdout, stderr io.Writer) int {
	a, err := requestReload(ctx, base)
	switch {
	case err != nil:
		Complain(stderr, name, err)
		return ExitFailed
	case !a.Reloaded:
		fmt.Fprintln(stderr, strings.Join(a.Mistakes, "\n"))
		fmt.Fprintf(stderr, "%s: refused; the old configuration goes on\n", name)
		return ExitConfig
	}
	say := func(what string, list []string) {
		if len(list) > 0 {
			fmt.Fprintf(stdout, "%s: %s\n", what, strings.Join(list, ", "))
		}
	}
	say("added", a.Added)
	say("changed", a.Changed)
	say("removed", a.Removed)
	if len(a.Added)+len(a.Changed)+len(a.Removed) == 0 {
		fmt.Fprintln(stdout, "no source has changed")
	} else if n := len(a.Unchanged); n > 0 {
		fmt.Fprintf(stdout, "untouched: %d more\n", n)
	}
	say("changed, but needs a restart", a.Restart)
	return ExitOK
}

func requestReload(ctx context.Context, base string) (a answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, reloadTime)
	defer cancel()
	fail := func(err error) (answer, error) { return answer{}, fmt.Errorf("reload: %w", err) }
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(base, "/")+"/reload", nil)
	if err != nil {
		return fail(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if u, ok := errors.AsType[*url.Error](err); ok {
		return fail(fmt.Errorf("%s: %w; it must be the operations address of a running poller", base, u.Err))
	} else if err != nil {
		return fail(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return fail(err)
	}
	if err := json.Unmarshal(body, &a); err != nil || res.StatusCode == http.StatusServiceUnavailable {
		text := strings.Join(a.Mistakes, "; ")
		if text == "" {
			text = "no poller answers there"
		}
		return fail(fmt.Errorf("%s: %s: %s", base, res.Status, text))
	}
	return a, nil
}
