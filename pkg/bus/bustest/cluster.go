package bustest

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
)

// Cluster is three NATS servers on loopback ports, each with a copy of every
// stream.
type Cluster struct {
	t     testing.TB
	nodes []*server.Server
}

// clusterWait bounds the election of leaders.
const clusterWait = 60 * time.Second

// StartCluster runs three servers until the test ends.
func StartCluster(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	var routes []*url.URL
	var ports []int
	for range 3 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, ln.Addr().(*net.TCPAddr).Port)
		routes = append(routes, &url.URL{Scheme: "nats-route", Host: ln.Addr().String()})
		ln.Close() // so that the server can listen there
	}
	for i, port := range ports {
		srv, err := server.NewServer(&server.Options{
			ServerName: "node-" + strconv.Itoa(i), Host: "127.0.0.1", Port: server.RANDOM_PORT,
			JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
			Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: port}, Routes: routes,
		})
		if err != nil {
			t.Fatalf("start NATS: %v", err)
		}
		srv.Start()
		t.Cleanup(func() {
			srv.Shutdown()
			srv.WaitForShutdown()
		})
		c.nodes = append(c.nodes, srv)
	}
	c.eventually("a leader of the cluster", func() error {
		for _, n := range c.nodes {
			if n.JetStreamIsLeader() {
				return nil
			}
		}
		return errors.New("none")
	})
	return c
}

func (c *Cluster) eventually(what string, try func() error) {
	c.t.Helper()
	for end := time.Now().Add(clusterWait); ; time.Sleep(20 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("not within %v: %s: %v", clusterWait, what, err)
		}
	}
}

// Stream makes the stream, with a copy on each server. It returns JetStream of a
// connection to the stream's leader.
func (c *Cluster) Stream() (jetstream.JetStream, bus.Names) {
	c.t.Helper()
	names, err := bus.NewNames("")
	if err != nil {
		c.t.Fatal(err)
	}
	conf := c.Config(0)
	conf.Replicas = len(c.nodes)
	js, err := jetstream.New(c.server(0).Connect())
	if err != nil {
		c.t.Fatal(err)
	}
	c.eventually("the stream", func() error {
		_, err := bus.EnsureStream(c.t.Context(), js, names, conf)
		return err
	})
	if js, err = jetstream.New(c.server(c.leader(names)).Connect()); err != nil {
		c.t.Fatal(err)
	}
	return js, names
}

// leader is the index of the server that leads the stream.
func (c *Cluster) leader(names bus.Names) (leader int) {
	c.t.Helper()
	c.eventually("a leader of the stream", func() error {
		for i, n := range c.nodes {
			if n.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, names.Stream()) {
				leader = i
				return nil
			}
		}
		return errors.New("none")
	})
	return leader
}

// Replica is the configuration of a service that is connected to a server which
// does not lead the stream.
func (c *Cluster) Replica(names bus.Names) bus.Config {
	c.t.Helper()
	return c.Config((c.leader(names) + 1) % len(c.nodes))
}

// Config is the configuration of a service that is connected to one server.
func (c *Cluster) Config(node int) bus.Config { return c.server(node).Config() }

func (c *Cluster) server(i int) *Server {
	return &Server{t: c.t, srv: c.nodes[i], URL: fmt.Sprintf("nats://%s", c.nodes[i].Addr())}
}
