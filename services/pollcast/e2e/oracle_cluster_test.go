package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// cluster is three NATS servers as processes, as deploy/kubernetes runs them: its
// configuration is made of the same two files. Each can be killed, frozen,
// started again at its address with its data, and cut off from the others
// (oracle_routes_test.go).
type cluster struct {
	t     testing.TB
	nodes [clusterSize]*clusterNode
	// links are the proxies from each node to each other one.
	links [clusterSize][clusterSize]*proxy
}

const clusterSize = 3

type clusterNode struct {
	name, addr, route, monitor, dir string

	file    string
	process *process // nil while it is down
	frozen  bool
}

// admin is a user that the deployment does not have: it reads the whole stream,
// moves its leader, and publishes as a poller does.
const admin = "admin"

func newCluster(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{t: t}
	for i := range c.nodes {
		c.nodes[i] = &clusterNode{
			name: "nats-" + strconv.Itoa(i), addr: freeAddr(t), route: freeAddr(t), monitor: freeAddr(t), dir: t.TempDir(),
		}
	}
	for _, n := range c.nodes {
		c.configure(n)
	}
	c.link()
	return c
}

// configure writes the files of a node.
func (c *cluster) configure(n *clusterNode) {
	c.t.Helper()
	data := strconv.Quote(filepath.Join(n.dir, "data"))
	user := fmt.Sprintf("\n    users: [\n      { user: %s, password: %q }\n", admin, password(admin))
	c.rewrite("../../../deploy/config/nats.conf", filepath.Join(n.dir, "nats.conf"), map[string]string{
		"\nport: 4222\n":     "\nlisten: " + strconv.Quote(n.addr) + "\n",
		"\nhttp_port: 8222 ": "\nhttp: " + strconv.Quote(n.monitor) + " ",
		"store_dir: /data\n": "store_dir: " + data + "\n",
		"\n    users: [\n":   user,
	})
	n.file = filepath.Join(n.dir, "cluster.conf")
	c.rewrite("../../../deploy/kubernetes/overlays/fleet/cluster.conf", n.file, map[string]string{
		"\n  port: 6222\n": "\n  listen: " + strconv.Quote(n.route) + "\n  advertise: " + strconv.Quote(nowhere) + "\n",
	})
}

// rewrite copies a file and replaces texts that must be in it.
func (c *cluster) rewrite(from, to string, replace map[string]string) {
	c.t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		c.t.Fatal(err)
	}
	text := string(data)
	for old, with := range replace {
		if !strings.Contains(text, old) {
			c.t.Fatalf("%s does not hold %q, which has to be replaced", from, old)
		}
		text = strings.Replace(text, old, with, 1)
	}
	if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// launch starts a node without waiting for it.
func (c *cluster) launch(n *clusterNode) {
	c.t.Helper()
	env := []string{"NATS_NAME=" + n.name, "NATS_ROUTE_PASSWORD=" + strconv.Quote(password("route"))}
	for _, user := range []string{"poller", "gateway", "reader"} {
		env = append(env, "NATS_"+strings.ToUpper(user)+"_PASSWORD="+strconv.Quote(password(user)))
	}
	for i := range c.nodes {
		env = append(env, fmt.Sprintf("ROUTE_%d=%q", i, "nats-route://route:"+password("route")+"@"+c.way(n, i)))
	}
	n.process = run(c.t, command{name: n.name, bin: bin.nats, args: []string{"-c", n.file}, env: env, rough: true})
	n.frozen = false
}

// up starts the nodes that are down, continues the frozen ones, and waits until
// every node has caught up with the others.
func (c *cluster) up() {
	c.t.Helper()
	for _, n := range c.nodes {
		c.restore(n)
	}
	for _, n := range c.nodes {
		within(c.t, clusterPatience, n.name+" is healthy", func() error {
			code, body, err := get("http://" + n.monitor + "/healthz")
			if err == nil && code != http.StatusOK {
				err = fmt.Errorf("HTTP %d: %s", code, body)
			}
			return err
		})
	}
}

// clusterPatience is the longest time that a test waits for a cluster that elects
// leaders and catches up.
const clusterPatience = 90 * time.Second

func (c *cluster) restore(n *clusterNode) {
	c.t.Helper()
	switch {
	case n.process == nil || !n.process.running():
		c.launch(n)
	case n.frozen:
		n.process.signal(syscall.SIGCONT)
		n.frozen = false
	}
}

func (c *cluster) freeze(n *clusterNode) {
	n.process.signal(syscall.SIGSTOP)
	n.frozen = true
}

func (c *cluster) kill(n *clusterNode) {
	n.process.kill()
	n.process = nil
}

// urls returns the addresses of all nodes.
func (c *cluster) urls() string {
	var urls []string
	for _, n := range c.nodes {
		urls = append(urls, "nats://"+n.addr)
	}
	return strings.Join(urls, ",")
}

// connect returns a connection that outlives every node.
func (c *cluster) connect(t testing.TB, user string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(c.urls(), nats.UserInfo(user, password(user)), nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100*time.Millisecond), nats.ReconnectBufSize(-1), nats.PingInterval(time.Second),
		nats.MaxPingsOutstanding(2),
		nats.Timeout(2*time.Second), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription,
			error) {
		})) // it reconnects by itself
	if err != nil {
		t.Fatalf("connect to NATS: %v", err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// within tries until there is no error, and fails the test with the last one.
func within(t testing.TB, patience time.Duration, what string, try func() error) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s: %v", patience, what, err)
		}
	}
}
