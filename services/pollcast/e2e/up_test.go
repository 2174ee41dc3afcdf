package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// installation is one of `pollcast up`: its addresses and its state outlive its
// process.
type installation struct {
	t                           testing.TB
	clients, ops, nats, hostrpc string
	home                        string // holds the user's state
}

func newInstallation(t testing.TB) *installation {
	return &installation{t, freeAddr(t), freeAddr(t), freeAddr(t), freeAddr(t), t.TempDir()}
}

// hostPolls are the polls of `pollcast up` without a configuration file.
var hostPolls = []string{"host.system.status", "host.network.list", "host.storage.list", "host.process.top"}

func (in *installation) command(sets ...string) command {
	c := command{name: "pollcast up", bin: bin.pollcast, args: []string{"up"}, env: []string{"XDG_STATE_HOME=" + in.home}}
	for _, set := range append([]string{
		"gateway.listen=" + in.clients, "gateway.operations=" + in.ops,
		"nats.url=nats://" + in.nats, "hostrpc.listen=" + in.hostrpc,
		// The slow polls are faster in this test.
		"poller.sources.host.polls.storage.list.interval=2s", "poller.sources.host.polls.process.top.interval=2s",
	}, sets...) {
		c.args = append(c.args, "-set", set)
	}
	return c
}

// start runs it and waits until it prints that it is up.
func (in *installation) start(sets ...string) *process {
	in.t.Helper()
	p := run(in.t, in.command(sets...))
	eventually(in.t, "pollcast up prints that it is up", func() error {
		if !p.running() {
			in.t.Fatalf("it ended: %s\n%s", p.cmd.ProcessState, p.logs())
		}
		if !strings.Contains(p.stdout.String(), "Ctrl-C ends it.") {
			return fmt.Errorf("it printed %q", p.stdout.String())
		}
		return nil
	})
	return p
}

// connect connects as soon as the gateway accepts clients.
func (in *installation) connect(query string) (c *client) {
	in.t.Helper()
	eventually(in.t, "the gateway takes clients", func() (err error) {
		c, err = tryDial(in.t, in.clients, query)
		return err
	})
	return c
}

// interrupt sends SIGINT, as Ctrl-C does.
func interrupt(t *testing.T, p *process) {
	t.Helper()
	if code := p.end(syscall.SIGINT); code != 0 {
		t.Errorf("exit code %d after Ctrl-C, want 0\n%s", code, tail(p.logs(), 20))
	}
	if !strings.Contains(p.stdout.String(), "\nStopped. The last values are kept in ") {
		t.Errorf("it ended with the words %q", tail(p.stdout.String(), 2))
	}
}

// TestUp checks what a new user sees: everything in one process, from an empty
// directory, ended and started again.
func TestUp(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	p := in.start()
	wantBanner(t, in, p.stdout.String())
	wantConsole(t, in)

	// A client gets everything without sending anything.
	c := in.connect("/v1/ws?topics=>")
	for _, poll := range hostPolls {
		c.back(0)
		c.await("a value of "+poll, anyEvent(poll))
		c.await("fresh: "+poll, isFresh(poll))
	}
	c.back(0)
	if f := c.await("the host's name", anyEvent("host.system.status")); !bytes.Contains(f.Event.Data, hostName(t)) {
		t.Errorf("host.system.status does not name this host: %s", f.raw)
	}
	// A later client begins with the last values.
	late := in.connect("/v1/ws?topics=host.>")
	for _, poll := range hostPolls {
		late.back(0)
		e := late.await("a value of "+poll, anyEvent(poll)).Event
		if age := time.Duration(e.AgeMs) * time.Millisecond; e.Phase != "snapshot" || e.Stale || age > 6*time.Second {
			t.Errorf("the first value of %s is of phase %s, stale %v, %v old; want a fresh snapshot", poll, e.Phase, e.Stale,
				age)
		}
		late.await("news of "+poll, func(f frame) bool {
			return liveEvent(poll)(f) && !f.Event.Stale || isFresh(poll)(f) && f.Fresh.AsOf.After(e.AsOf)
		})
	}

	t.Run("nats", func(t *testing.T) { stockCLI(t, in, c) })
	t.Run("tail", func(t *testing.T) { tailPrints(t, in) })
	t.Run("faults", func(t *testing.T) { faultSwitches(t, in, c) })
	t.Run("busy", func(t *testing.T) { busyPorts(t, in) })

	last := map[string]*eventFrame{}
	interrupt(t, p)
	stopped := time.Now()
	if code := c.closeCode(); code != 1012 {
		t.Errorf("the client was closed with %d, want 1012 (restart)", code)
	}
	if len(c.seen(func(f frame) bool { return f.GoAway != nil })) != 1 {
		t.Error("the client received no goAway")
	}
	for _, f := range c.seen(func(f frame) bool { return f.Event != nil }) {
		last[f.Event.Topic] = f.Event
	}

	t.Run("last values", func(t *testing.T) { lastValues(t, in, last, stopped) })

	// With the upstream back, it continues.
	p = in.start()
	c = in.connect("/v1/ws?topics=host.>")
	f := c.await("fresh after the second start", func(f frame) bool {
		return liveEvent("host.system.status")(f) && !f.Event.Stale
	})
	if was := last["host.system.status"].Version; f.Event.Version <= was {
		t.Errorf("version %d after %d", f.Event.Version, was)
	}
	interrupt(t, p)
}

func hostName(t *testing.T) []byte {
	t.Helper()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return []byte(name)
}

func wantBanner(t *testing.T, in *installation, text string) {
	t.Helper()
	port := func(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }
	for _, want := range []string{
		"Pollcast is up.", "http://localhost:" + port(in.clients), "ws://localhost:" + port(in.clients) + "/v1/ws?topics=>",
		"nats sub --server " + in.nats + " 'pollcast.live.>'",
		"pollcast tail -url ws://localhost:" + port(in.clients) + "/v1/ws '>'", "http://" + in.hostrpc,
		"http://" + in.ops + "/metrics", filepath.Join(in.home, "pollcast"),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("its output lacks %q:\n%s", want, text)
		}
	}
}

// wantConsole gets the page and every file that it names.
func wantConsole(t *testing.T, in *installation) {
	t.Helper()
	page := func(path, kind string) string {
		res, err := web.Get("http://" + in.clients + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var text bytes.Buffer
		if _, err := text.ReadFrom(res.Body); err != nil {
			t.Fatal(err)
		}
		if have := res.Header.Get("Content-Type"); res.StatusCode != http.StatusOK || !strings.HasPrefix(have, kind) ||
			text.Len() == 0 {
			t.Errorf("GET %s: %s, %q, %d bytes; want 200, %s", path, res.Status, have, text.Len(), kind)
		}
		return text.String()
	}
	html := page("/", "text/html")
	if !strings.Contains(html, "<title>") || !strings.Contains(html, "Pollcast") {
		t.Errorf("the console's page: %s", html)
	}
	assets := regexp.MustCompile(`(?:src|href)="/?(assets/[^"]+\.(js|css))"`).FindAllStringSubmatch(html, -1)
	if len(assets) < 2 {
		t.Errorf("the console names %d assets, want a script and a style: %s", len(assets), html)
	}
	for _, a := range assets {
		page("/"+a[1], map[string]string{"js": "text/javascript", "css": "text/css"}[a[2]])
	}
}

// stockCLI checks that the `nats` command sees everything about host with headers
// and may not write.
func stockCLI(t *testing.T, in *installation, c *client) {
	server := "--server=nats://" + in.nats
	out, text, code := natsCLI(t, "sub", "pollcast.live.host.>", "--count=10", server)
	messages := parsePrinted(t, out)
	if code != 0 || len(messages) != 10 {
		t.Fatalf("nats sub: exit code %d, %d messages: %s", code, len(messages), text)
	}
	kinds := map[string]int{}
	for _, m := range messages {
		wantCloudEvent(t, m)
		kinds[m.header["ce-type"]]++
	}
	if kinds["pollcast.event.v1"] == 0 || kinds["pollcast.freshness.v1"] == 0 {
		t.Errorf("nats sub showed %v, want events and freshness", kinds)
	}

	place := c.skip()
	for _, args := range [][]string{
		{"pub", "pollcast.in.host.x", `{"forged":true}`},
		{"pub", "pollcast.live.host.x", `{"forged":true}`},
		{"pub", "$JS.API.INFO", "", "--reply=$KV.pollcast_leases.host"},
		{"pub", "$JS.API.STREAM.NAMES", "", "--reply=$JS.API.STREAM.DELETE.POLLCAST"},
		{"stream", "rm", "-f", "POLLCAST", "--timeout=1s"},
		{"kv", "del", "-f", "pollcast_leases", "host", "--timeout=1s"},
	} {
		_, text, code := natsCLI(t, append(args, server)...)
		if code == 0 || !strings.Contains(strings.ToLower(text), "permissions violation") {
			t.Errorf("nats %s: exit code %d, want it refused: %s", strings.Join(args, " "), code, text)
		}
	}
	// A reader may ask for the last value, and its answer goes where it reads.
	const last = "$JS.API.DIRECT.GET.POLLCAST.pollcast.in.host.system.status"
	out, text, code = natsCLI(t, "request", last, "", "--raw", server)
	if code != 0 || !json.Valid([]byte(out)) {
		t.Errorf("nats request %s: exit code %d, %q, %s", last, code, out, text)
	}
	for _, reply := range []string{"$KV.pollcast_leases.host", "pollcast.in.host.x", "pollcast.live.host.x"} {
		if _, text, code := natsCLI(t, "pub", last, "", "--reply="+reply, server); code != 0 {
			t.Errorf("nats pub --reply=%s: exit code %d: %s", reply, code, text)
		}
	}
	for range 2 {
		c.await("values go on", liveEvent("host.system.status"))
	}
	c.back(place)
	if n := len(c.seen(func(f frame) bool { return strings.Contains(f.raw, "host.x") })); n > 0 {
		t.Errorf("%d frames came of what was not allowed to be published", n)
	}
}

// tailPrints runs `pollcast tail` in a second terminal.
func tailPrints(t *testing.T, in *installation) {
	url := "ws://" + in.clients + "/v1/ws"
	p := run(t, command{name: "pollcast tail", bin: bin.pollcast, args: []string{"tail", "-url", url, "-json", "-count",
		"6", "host.>"}})
	if code := p.wait(patience); code != 0 {
		t.Fatalf("pollcast tail -json: exit code %d: %s", code, p.logs())
	}
	lines := strings.Split(strings.TrimSpace(p.stdout.String()), "\n")
	if len(lines) < 6 {
		t.Errorf("pollcast tail -count 6 printed %d lines", len(lines))
	}
	for _, line := range lines {
		if !json.Valid([]byte(line)) {
			t.Errorf("pollcast tail -json printed %q", line)
		}
	}
	p = run(t, command{name: "pollcast tail", bin: bin.pollcast,
		args: []string{"tail", "-url", url, "host.system.status"}})
	eventually(t, "pollcast tail prints", func() error {
		if text := p.stdout.String(); !strings.Contains(text, "host.system.status") || strings.Contains(text, "\x1b") {
			return fmt.Errorf("have %q", text)
		}
		return nil
	})
	if code := p.end(syscall.SIGINT); code != 0 {
		t.Errorf("pollcast tail: exit code %d after Ctrl-C, want 0: %s", code, p.logs())
	}
}

// faultSwitches checks that the page's switches take effect within an interval,
// and can be undone.
func faultSwitches(t *testing.T, in *installation, c *client) {
	set := func(kind string) {
		t.Helper()
		res, err := web.Post("http://"+in.clients+"/demo/faults", "application/json",
			strings.NewReader(`{"method":"system.status","kind":"`+kind+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatalf("POST /demo/faults: %s", res.Status)
		}
	}
	set("error")
	c.skip()
	asked := time.Now()
	f := c.await("stale", isStale("host.system.status", "upstream_error"))
	if d := f.at.Sub(asked); d > 3*time.Second { // the interval is 2 s
		t.Errorf("stale after %v, the interval is 2s", d)
	}
	set("none")
	c.await("fresh", isFresh("host.system.status"))
}

// TestStateDirectory checks that one state directory has one process, until that
// ends, however it ends.
func TestStateDirectory(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	first := in.start()
	second := newInstallation(t) // with addresses of its own
	second.home = in.home
	refused := run(t, second.command())
	code, text := refused.wait(endTime), strings.TrimSpace(refused.logs())
	if code != 1 || strings.Contains(text, "\n") ||
		!inOrder(text, []string{filepath.Join(in.home, "pollcast"), "in use", "-state"}) {
		t.Errorf("with the state directory in use: exit code %d and the words %q; "+
			"want 1 and one sentence with the directory and what to do", code, text)
	}
	first.kill()
	second.start()
}

// busyPorts checks that a second instance reports the address in use in one
// sentence.
func busyPorts(t *testing.T, in *installation) {
	second := newInstallation(t)
	for _, tt := range []struct{ setting, scheme, addr string }{
		{"gateway.listen", "", in.clients}, {"nats.url", "nats://", in.nats}, {"hostrpc.listen", "", in.hostrpc},
		{"gateway.operations", "", in.ops},
	} {
		p := run(t, second.command(tt.setting+"="+tt.scheme+tt.addr))
		code, text := p.wait(endTime), strings.TrimSpace(p.logs())
		if code != 1 || strings.Contains(text, "\n") ||
			!inOrder(text, []string{tt.addr, "taken", "-set " + tt.setting + "=" + tt.scheme}) {
			t.Errorf("with %s taken: exit code %d and the words %q; "+
				"want 1 and one sentence about what is taken and how to take another", tt.addr, code, text)
		}
	}
}

// lastValues checks that the second start has the last values at once, stale and
// with their true age, although the upstream has ended.
func lastValues(t *testing.T, in *installation, last map[string]*eventFrame, stopped time.Time) {
	p := in.start(`poller.sources.host.upstreams=["http://` + freeAddr(t) + `/"]`)
	c := in.connect("/v1/ws?topics=host.>")
	for _, poll := range hostPolls {
		c.back(0)
		c.await("stale: "+poll, isStale(poll, "upstream_error", "breaker_open"))
	}
	late := in.connect("/v1/ws?topics=host.>")
	for _, poll := range hostPolls {
		for who, v := range map[string]*client{"the first": c, "a late": late} {
			v.back(0)
			e, was := v.await("the last value of "+poll, anyEvent(poll)).Event, last[poll]
			// Events that were published while the first run ended may not have
			// reached its client.
			if e.Phase != "snapshot" || e.Version < was.Version || e.AsOf.Before(was.AsOf) || e.AsOf.After(stopped) {
				t.Errorf("%s client: %s has version %d as of %v in phase %s; it was version %d as of %v, until %v",
					who, poll, e.Version, e.AsOf, e.Phase, was.Version, was.AsOf, stopped)
			}
			if v == late && !e.Stale {
				t.Errorf("%s is not stale although the upstream is dead", poll)
			}
		}
	}
	for _, v := range []*client{c, late} {
		if n := len(v.seen(func(f frame) bool { return f.Event != nil && f.Event.Phase == "live" })); n > 0 {
			t.Errorf("%d events while the upstream is dead", n)
		}
	}
	interrupt(t, p)
}
