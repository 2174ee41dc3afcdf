//go:build system

package e2e

import (
	"cmp"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// proxyIdle is the proxies' timeout for silent connections in this test. The
// gateways ping every second.
const proxyIdle = 3 * time.Second

// balancer is one of the examples in deploy/proxy.
type balancer struct {
	name, file, install string
	// replace lists the texts that the test replaces in the file: {LISTEN}, {ONE}
	// and {TWO} are addresses, {IDLE} is proxyIdle in seconds.
	replace map[string]string
	args    func(dir, file string) []string
}

var balancers = []balancer{
	{
		name: "nginx", file: "nginx.conf", install: "nginx-light",
		replace: map[string]string{
			"listen 80;": "listen {LISTEN};", "server gateway-1:12080": "server {ONE}",
			"server gateway-2:12080": "server {TWO}",
			"proxy_read_timeout 90s": "proxy_read_timeout {IDLE}s", "proxy_send_timeout 90s": "proxy_send_timeout {IDLE}s",
		},
		args: func(dir, file string) []string {
			return []string{"-p", dir, "-e", "stderr", "-c", filepath.Join(dir, "main.conf")}
		},
	},
	{
		name: "haproxy", file: "haproxy.cfg", install: "haproxy",
		replace: map[string]string{
			"bind :80": "bind {LISTEN}", "gateway-1 gateway-1:12080": "gateway-1 {ONE}",
			"gateway-2 gateway-2:12080": "gateway-2 {TWO}",
			"timeout client  60s":       "timeout client  {IDLE}s", "timeout server  60s": "timeout server  {IDLE}s",
			"timeout tunnel  90s": "timeout tunnel  {IDLE}s",
		},
		args: func(_, file string) []string { return []string{"-db", "-f", file} },
	},
}

// start runs the proxy with its example in front of two gateways.
func (p balancer) start(t *testing.T, one, two string) (addr string) {
	t.Helper()
	path, err := exec.LookPath(p.name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + p.name) // only root has it in its path
	}
	if err != nil {
		t.Fatalf("this test needs %s: install the Debian package %s (apt-get install %s)", p.name, p.install, p.install)
	}
	data, err := os.ReadFile("../../../deploy/proxy/" + p.file)
	if err != nil {
		t.Fatal(err)
	}
	addr = freeAddr(t)
	text := string(data)
	values := strings.NewReplacer("{LISTEN}", addr, "{ONE}", one, "{TWO}", two, "{IDLE}", fmt.Sprint(proxyIdle.Seconds()))
	for old, with := range p.replace {
		if !strings.Contains(text, old) {
			t.Fatalf("deploy/proxy/%s does not hold %q, which has to be replaced", p.file, old)
		}
		text = strings.ReplaceAll(text, old, values.Replace(with))
	}
	dir := t.TempDir()
	file := filepath.Join(dir, p.file)
	main := "daemon off;\nmaster_process off;\npid nginx.pid;\nevents {}\nhttp {\naccess_log off;\n" +
		"client_body_temp_path body;\nproxy_temp_path proxy;\nfastcgi_temp_path fastcgi;\nuwsgi_temp_path " +
		"uwsgi;\nscgi_temp_path scgi;\n" +
		"include " + file + ";\n}\n"
	for name, content := range map[string]string{file: text, filepath.Join(dir, "main.conf"): main} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	running := run(t, command{name: p.name, bin: path, args: p.args(dir, file), rough: true})
	eventually(t, p.name+" passes requests on", func() error {
		if !running.running() {
			t.Fatalf("%s ended\n%s", p.name, running.logs())
		}
		code, body, err := get("http://" + addr + "/v1/topics")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("HTTP %d: %s", code, body)
		}
		return err
	})
	return addr
}

// TestProxies runs clients through the proxies of deploy/proxy: events arrive at
// once, silence does not end a connection, and clients of a gateway that drains
// move to the other one without a loss.
func TestProxies(t *testing.T) {
	up := newUpstream(t)
	s := newStack(t, fmt.Sprintf(`
    up:
      upstreams: [%q]
      polls:
        count: {method: count, interval: 200ms}
`, up.url()), "gateway: {pingInterval: 1s}")
	_, first := s.all()
	second := s.gateway()
	second.ready()
	gateways := map[string]*service{"first": first, "second": second}
	type pair struct {
		balancer
		addr   string
		ws     *client
		silent *client
		sse    <-chan error
	}
	var pairs []*pair
	start := time.Now()
	for _, p := range balancers {
		addr := p.start(t, first.addr, second.addr)
		pairs = append(pairs, &pair{
			balancer: p, addr: addr,
			ws:     dial(t, addr, "/v1/ws?topics=up.>"),
			silent: dial(t, addr, "/v1/ws?topics=nothing.here"),
			sse:    openEvents(t, addr, "nothing.here", func(received, time.Time) {}),
		})
	}
	for _, p := range pairs {
		// No buffer delays a live event. Its age is correct.
		e := p.ws.await(p.name+" passes live events", liveEvent("up.count"))
		if late := e.at.Sub(e.Event.AsOf); late > time.Second {
			t.Errorf("%s: an event came %v after it was asked for", p.name, late)
		}
		events := make(chan time.Duration, 1000)
		openEvents(t, p.addr, "up.>", func(h received, at time.Time) {
			if h.Event != nil && h.Event.Phase == "live" {
				events <- at.Sub(h.Event.AsOf)
			}
		})
		for range 3 {
			select {
			case late := <-events:
				if late > time.Second {
					t.Errorf("%s: a server-sent event came %v after it was asked for", p.name, late)
				}
			case <-time.After(patience):
				t.Fatalf("%s: no server-sent event within %v", p.name, patience)
			}
		}
	}
	// Only pings for longer than the proxy's timeout for silence.
	time.Sleep(time.Until(start.Add(3 * proxyIdle)))
	for _, p := range pairs {
		p.silent.send(`{"id":5,"ping":{}}`)
		p.silent.await(p.name+" keeps a silent WebSocket", func(f frame) bool { return f.ID == 5 })
		select {
		case err := <-p.sse:
			t.Errorf("%s ended a silent stream of server-sent events: %v", p.name, err)
		default:
		}
	}
	// Clients of a gateway that drains are informed, move to the other one
	// through the proxy, and miss nothing.
	for name, g := range gateways {
		g.signal(syscall.SIGTERM)
		moved := 0
		for _, p := range pairs {
			welcome := p.ws.seen(func(f frame) bool { return f.Welcome != nil })[0].Welcome
			select {
			case <-p.ws.gone:
			case <-time.After(2 * time.Second):
				continue // this client is on the other gateway
			}
			moved++
			seen := p.ws.seen(anyEvent("up.count"))
			last := seen[len(seen)-1].Event
			// Clients try again too: a proxy that has not noticed yet that the
			// other gateway is back answers 502.
			eventually(t, p.name+" leads to a gateway", func() error {
				ws, err := tryDial(t, p.addr, "/v1/ws")
				p.ws = cmp.Or(ws, p.ws)
				return err
			})
			p.ws.send(fmt.Sprintf(`{"id":1,"subscribe":{"topics":["up.>"],"since":{"seq":%d,"epoch":%q}}}`, last.Seq,
				welcome.Epoch))
			if next := p.ws.await(p.name+": the next event", anyEvent("up.count")).Event; next.Version != last.Version+1 {
				t.Errorf("%s: version %d came after %d", p.name, next.Version, last.Version)
			}
		}
		if code := g.wait(endTime + 2*time.Second); code != 0 {
			t.Errorf("the %s gateway ended with exit code %d", name, code)
		}
		t.Logf("the %s gateway drained, %d of %d clients moved", name, moved, len(pairs))
		again := s.gatewayAt(g.addr)
		again.ready()
		gateways[name] = again
	}
}

// openEvents asks for server-sent events. The stream ends with the test. The
// channel receives the reason if it ends before.
func openEvents(t *testing.T, addr, topics string, each func(received, time.Time)) <-chan error {
	t.Helper()
	l, err := dialSSE(t.Context(), addr, []string{topics}, "", false)
	if err != nil {
		t.Fatalf("server-sent events of %s: %v", topics, err)
	}
	ended := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			h, err := l.receive()
			if err != nil {
				ended <- err
				return
			}
			each(h, time.Now())
		}
	}()
	t.Cleanup(func() {
		l.hangUp()
		<-done
	})
	return ended
}
