package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// stack is what separate services share: a NATS server, with the users and
// permissions of docker compose and Kubernetes, and one configuration file.
type stack struct {
	t    testing.TB
	nats *natsServer
	file string
	sets []string // for every service
	env  []string // for the pollers
}

// newStack writes the configuration file and starts nothing. sources is the YAML
// of poller.sources. more are further sections.
func newStack(t testing.TB, sources string, more ...string) *stack {
	t.Helper()
	s := &stack{t: t, nats: &natsServer{t: t, addr: freeAddr(t), dir: t.TempDir()}}
	text := fmt.Sprintf(`
nats:
  url: nats://%s
  history: 10000 # the whole test, to be looked at
  leaseTime: %v
poller:
  sources:
%s
`, s.nats.addr, leaseTime, sources)
	for _, m := range more {
		text += m + "\n"
	}
	s.file = filepath.Join(t.TempDir(), "pollcast.yaml")
	if err := os.WriteFile(s.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// leaseTime is the time after which another poller takes a source of a poller
// that has ended.
const leaseTime = 2 * time.Second

// service is a Pollcast service as a process.
type service struct {
	*process
	addr string // for clients; "" for a poller
	ops  string
}

func (s *stack) gateway() *service { return s.gatewayAt(freeAddr(s.t)) }

func (s *stack) gatewayAt(addr string) *service {
	s.t.Helper()
	v := &service{addr: addr, ops: freeAddr(s.t)}
	v.process = run(s.t, s.command("gateway", bin.gateway, "gateway.listen="+v.addr, "gateway.operations="+v.ops,
		"gateway.drainTime=200ms"))
	return v
}

func (s *stack) poller(sets ...string) *service {
	s.t.Helper()
	v := &service{ops: freeAddr(s.t)}
	v.process = run(s.t, s.command("poller", bin.poller, append(sets, "poller.operations="+v.ops)...))
	return v
}

// hostrpc starts a hostrpc at the address in the sources' configuration.
func (s *stack) hostrpc(addr string) *service {
	s.t.Helper()
	v := &service{addr: addr, ops: addr}
	v.process = run(s.t, s.command("hostrpc", bin.hostrpc, "hostrpc.listen="+addr))
	return v
}

// command returns the command of a service, which connects to NATS as its own
// user.
func (s *stack) command(name, path string, sets ...string) command {
	c := command{name: name, bin: path, args: []string{"-config", s.file}}
	if name != "hostrpc" {
		c.env = []string{"POLLCAST_NATS_USER=" + name, "POLLCAST_NATS_PASSWORD=" + password(name)}
	}
	if name == "poller" {
		c.env = append(c.env, s.env...)
	}
	if name == "gateway" {
		c.env = append(c.env, "POLLCAST_NATS_JETSTREAM_APIPREFIX=pollcast.api")
	}
	for _, set := range append(sets, s.sets...) {
		c.args = append(c.args, "-set", set)
	}
	return c
}

// all starts one service of each kind, except the upstream, and waits until they
// are ready.
func (s *stack) all() (poller, gateway *service) {
	s.t.Helper()
	s.nats.start()
	poller, gateway = s.poller(), s.gateway()
	poller.ready()
	gateway.ready()
	return poller, gateway
}

// ready waits until the service reports that it is ready.
func (v *service) ready() {
	v.t.Helper()
	v.readyWithin(patience)
}

func (v *service) readyWithin(patience time.Duration) {
	v.t.Helper()
	within(v.t, patience, v.command.name+" is ready", func() error {
		if !v.running() {
			v.t.Fatalf("%s ended: %s\n%s", v.command.name, v.cmd.ProcessState, tail(v.logs(), 20))
		}
		code, body, err := get("http://" + v.ops + "/readyz")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("HTTP %d: %s", code, body)
		}
		return err
	})
}

// pollerStatus is the part of a poller's /status that these tests read.
type pollerStatus struct {
	Owner   string
	Sources []struct {
		Name      string
		Owned     bool
		Breaker   string
		Upstreams []struct {
			State    string
			Failures int
		}
	}
}

func (v *service) status() pollerStatus {
	v.t.Helper()
	code, body, err := get("http://" + v.ops + "/status")
	if err != nil || code != http.StatusOK {
		v.t.Fatalf("/status: HTTP %d %v", code, err)
	}
	var s pollerStatus
	if err := json.Unmarshal(body, &s); err != nil {
		v.t.Fatalf("/status: %v", err)
	}
	return s
}

// owns reports whether the poller holds the lease of its first source.
func (v *service) owns() bool {
	v.t.Helper()
	s := v.status()
	return len(s.Sources) > 0 && s.Sources[0].Owned
}

// web keeps no connections open, so that none outlives its server.
var web = &http.Client{
	Timeout:       5 * time.Second,
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func get(url string) (int, []byte, error) {
	res, err := web.Get(url)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, body, err
}

// natsServer is a NATS server whose address and data outlive its process.
type natsServer struct {
	t         testing.TB
	addr, dir string
	process   *process
}

func password(user string) string { return user + "-secret-7261" }

// start starts the server and waits until it answers.
func (n *natsServer) start() {
	n.t.Helper()
	quoted := func(user string) string { return `"` + password(user) + `"` }
	n.process = run(n.t, command{
		name: "nats-server", bin: bin.nats, args: []string{"-c", n.config()},
		env: []string{
			"NATS_NAME=e2e", "NATS_POLLER_PASSWORD=" + quoted("poller"),
			"NATS_GATEWAY_PASSWORD=" + quoted("gateway"), "NATS_READER_PASSWORD=" + quoted("reader"),
		},
		rough: true, // it ends with an error while it has clients
	})
	eventually(n.t, "NATS answers", func() error {
		if !n.process.running() {
			n.t.Fatalf("nats-server ended\n%s", tail(n.process.logs(), 20))
		}
		nc, err := nats.Connect(n.url(), nats.UserInfo("reader", password("reader")))
		if err == nil {
			nc.Close()
		}
		return err
	})
}

// config writes the server's configuration: that of docker compose and
// Kubernetes, with another address and directory.
func (n *natsServer) config() string {
	n.t.Helper()
	data, err := os.ReadFile("../../../deploy/config/nats.conf")
	if err != nil {
		n.t.Fatal(err)
	}
	text := string(data)
	for _, r := range [][2]string{
		{"\nport: 4222\n", "\nlisten: " + strconv.Quote(n.addr) + "\n"},
		{"\nhttp_port: 8222 ", "\nhttp: " + strconv.Quote(freeAddr(n.t)) + " "},
		{"store_dir: /data\n", "store_dir: " + strconv.Quote(filepath.Join(n.dir, "data")) + "\n"},
	} {
		if !strings.Contains(text, r[0]) {
			n.t.Fatalf("nats.conf does not hold %q, which has to be replaced", r[0])
		}
		text = strings.Replace(text, r[0], r[1], 1)
	}
	file := filepath.Join(n.dir, "nats.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
	return file
}

func (n *natsServer) url() string { return "nats://" + n.addr }

// connect returns a connection of one of the users.
func (n *natsServer) connect(user string) *nats.Conn {
	n.t.Helper()
	opts := []nats.Option{nats.UserInfo(user, password(user)), nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond)}
	if user != "reader" {
		opts = append(opts, nats.CustomInboxPrefix("_INBOX_"+user))
	}
	nc, err := nats.Connect(n.url(), opts...)
	if err != nil {
		n.t.Fatalf("connect to NATS: %v", err)
	}
	n.t.Cleanup(nc.Close)
	return nc
}
