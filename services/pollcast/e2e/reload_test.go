package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sourceYAML is a source that asks an upstream every 200 ms.
func sourceYAML(name, url string, polls ...string) string {
	text := fmt.Sprintf("    %s:\n      upstreams: [%q]\n      polls:\n", name, url)
	for _, p := range polls {
		text += fmt.Sprintf("        %s: {method: m, interval: 200ms}\n", p)
	}
	return text
}

// rewrite replaces the sources in the configuration file.
func (s *stack) rewrite(sources string) {
	s.t.Helper()
	data, err := os.ReadFile(s.file)
	if err != nil {
		s.t.Fatal(err)
	}
	head, _, ok := strings.Cut(string(data), "  sources:\n")
	if !ok {
		s.t.Fatalf("no sources in %s", data)
	}
	if err := os.WriteFile(s.file, []byte(head+"  sources:\n"+sources), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// TestReload changes the configuration of a running poller, by signal and by
// request, while a client is connected.
func TestReload(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	s := newStack(t, sourceYAML("stays", u.url(), "a")+sourceYAML("goes", u.url(), "b"))
	poller, gateway := s.all()
	viewer := dial(t, gateway.addr, "/v1/ws?topics=>")
	viewer.await("the first source", liveEvent("stays.a"))
	viewer.back(0)
	viewer.await("the second source", liveEvent("goes.b"))

	s.rewrite(sourceYAML("stays", u.url(), "a") + sourceYAML("comes", u.url(), "c"))
	at, before := time.Now(), viewer.skip() // a new poll is also stale at first: poller_silent
	poller.signal(syscall.SIGHUP)
	viewer.await("the added source", liveEvent("comes.c"))
	viewer.back(before)
	last := viewer.await("the removed source is stale", isStale("goes.b", "poller_silent"))
	if last.Fresh.Detail != "taken out of the configuration" || last.at.Sub(at) > 5*time.Second {
		t.Errorf("the removed source had an event after %v: %s", last.at.Sub(at), last.raw)
	}

	// Reloads by request, from both programs, and refused ones.
	reload := func(want int, output string, c command) {
		t.Helper()
		p := run(t, c)
		if code := p.wait(patience); code != want || !strings.Contains(p.logs(), output) {
			t.Errorf("%s: exit code %d, %q; want %d and %q", c.name, code, p.logs(), want, output)
		}
	}
	cli := command{name: "pollcast reload", bin: bin.pollcast, args: []string{"reload", "-url", "http://" + poller.ops},
		rough: true}
	reload(0, "no source has changed\n", cli)
	s.rewrite(sourceYAML("stays", u.url(), "a") + sourceYAML("comes", u.url(), "d"))
	reload(0, "changed: comes\nuntouched: 1 more\n", cli)
	viewer.await("the poll that was added to a source", liveEvent("comes.d"))
	s.rewrite(sourceYAML("stays", "ftp://nowhere/", "a") + "    worse: {upsteams: []}\n")
	inside := command{name: "poller -reload", bin: bin.poller, args: []string{"-reload", "http://" + poller.ops},
		rough: true}
	reload(2, `did you mean "upstreams"?`, inside)
	reload(2, `scheme "ftp" is not spoken`, cli)
	reload(2, "refused; the old configuration goes on\n", cli)
	reload(1, "connection refused", command{name: "pollcast reload of nobody", bin: bin.pollcast,
		args: []string{"reload", "-url", "http://" + freeAddr(t)}, rough: true})
	if !strings.Contains(poller.logs(), "configuration refused; the old one goes on") {
		t.Error("the poller did not log the refusal")
	}
	viewer.skip()
	viewer.await("the old configuration goes on", liveEvent("comes.d"))

	// A gateway has nothing to reload and must not end.
	gateway.signal(syscall.SIGHUP)
	eventually(t, "the gateway logs that it does nothing", func() error {
		if !strings.Contains(gateway.logs(), "SIGHUP changes nothing here") {
			return errors.New("it does not")
		}
		return nil
	})
	viewer.skip()
	viewer.await("the gateway goes on", liveEvent("stays.a"))
	// The rules check that versions have no gap.
}

// TestReloadUp checks reloads of `pollcast up`, in one process.
func TestReloadUp(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	in := newInstallation(t)
	file := filepath.Join(t.TempDir(), "mine.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("poller:\n  sources:\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(sourceYAML("one", u.url(), "a"))
	c := command{name: "pollcast up", bin: bin.pollcast, env: []string{"XDG_STATE_HOME=" + in.home}, args: []string{
		"up", "-config", file, "-set", "gateway.listen=" + in.clients, "-set", "gateway.operations=" + in.ops,
		"-set", "nats.url=nats://" + in.nats, "-set", "hostrpc.listen=" + in.hostrpc,
	}}
	p := run(t, c)
	viewer := in.connect("/v1/ws?topics=>")
	viewer.await("the first source", liveEvent("one.a"))
	write(sourceYAML("one", u.url(), "a") + sourceYAML("two", u.url(), "b") + "gateway: {maxTopics: 77}\n")
	p.signal(syscall.SIGHUP)
	viewer.await("the added source", liveEvent("two.b"))
	eventually(t, "what needs a restart is reported", func() error {
		if !strings.Contains(p.logs(), "some changed settings wait for a restart") ||
			!strings.Contains(p.logs(), "gateway.maxTopics") {
			return errors.New("it is not")
		}
		return nil
	})
	cli := run(t, command{name: "pollcast reload", bin: bin.pollcast,
		args: []string{"reload", "-url", "http://" + in.ops}, rough: true})
	if code := cli.wait(patience); code != 0 ||
		!strings.Contains(cli.logs(), "changed, but needs a restart: gateway.maxTopics") {
		t.Errorf("pollcast reload: exit code %d, %q", code, cli.logs())
	}
	post := func(origin string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+in.ops+"/reload", nil)
		if err != nil {
			t.Fatal(err)
		}
		if origin != "" {
			req.Header.Set("Origin", origin)
		}
		return fetch(t, req)
	}
	if code, body := post(""); code != http.StatusOK || !strings.Contains(body, `"reloaded": true`) {
		t.Errorf("POST /reload: %d %s", code, body)
	}
	if code, body := post("https://example.com"); code != http.StatusForbidden {
		t.Errorf("POST /reload from another origin: %d %s, want 403", code, body)
	}
	// The one operations port serves the status of both services.
	for path, want := range map[string]string{"/poller/status": `"poll": "two.b"`, "/status": `"connections"`} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+in.ops+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if code, body := fetch(t, req); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("GET %s: %d %s, want %s", path, code, body, want)
		}
	}
	interrupt(t, p)
}

func fetch(t *testing.T, req *http.Request) (code int, body string) {
	t.Helper()
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}
