// Package bustest runs a real NATS server with JetStream inside a test.
package bustest

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
)

// Server is a NATS server on a loopback port of its own. Its data is in the test's
// temporary directory. It can be stopped, and started again on the same port with
// the same data.
type Server struct {
	t    testing.TB
	opts server.Options
	srv  *server.Server
	URL  string
}

// Start runs a server until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	return StartLimited(t, 0)
}

// StartLimited is Start for a server whose streams together may use storage bytes
// of disk; 0 means no limit.
func StartLimited(t testing.TB, storage int64) *Server {
	t.Helper()
	s := &Server{t: t, opts: server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT,
		JetStream: true, JetStreamMaxStore: storage, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
	}}
	s.Restart()
	t.Cleanup(s.Stop)
	return s
}

// StartConfigured is Start for a server with the settings of a configuration file.
func StartConfigured(t testing.TB, text string) *Server {
	t.Helper()
	name := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(name)
	if err != nil {
		t.Fatalf("configure NATS: %v", err)
	}
	opts.Host, opts.Port, opts.NoSigs, opts.NoLog = "127.0.0.1", server.RANDOM_PORT, true, true
	opts.JetStream, opts.StoreDir = true, t.TempDir()
	s := &Server{t: t, opts: *opts}
	s.Restart()
	t.Cleanup(s.Stop)
	return s
}

// Stop shuts the server down and waits for it; its data stays.
func (s *Server) Stop() {
	if s.srv != nil {
		s.srv.Shutdown()
		s.srv.WaitForShutdown()
		s.srv = nil
	}
}

// Restart starts a stopped server on its port, with its data.
func (s *Server) Restart() {
	s.t.Helper()
	opts := s.opts
	srv, err := server.NewServer(&opts)
	if err != nil {
		s.t.Fatalf("start NATS: %v", err)
	}
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		s.t.Fatal("start NATS: not ready within 10 s")
	}
	s.srv = srv
	s.URL = srv.ClientURL()
	s.opts.Port = opts.Port
}

// Change restarts the server with another configuration.
func (s *Server) Change(change func(*server.Options)) {
	s.t.Helper()
	s.Stop()
	change(&s.opts)
	s.Restart()
}

// Config is the configuration of a service that uses this server.
func (s *Server) Config() bus.Config {
	c := bus.DefaultConfig()
	c.URL = s.URL
	return c
}

// Connect returns a connection that is closed when the test ends.
func (s *Server) Connect() *nats.Conn {
	s.t.Helper()
	return s.Bus().NATS()
}

// Bus returns a connection that is closed when the test ends.
func (s *Server) Bus() *bus.Conn {
	s.t.Helper()
	return Connect(s.t, s.Config())
}

// Connect returns a connection of a configuration. It is closed when the test
// ends.
func Connect(t testing.TB, c bus.Config) *bus.Conn {
	t.Helper()
	conn, err := bus.Connect(bus.Options{Config: c, Role: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("connect to NATS: %v", err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// Reload changes the configuration of the running server, as `nats-server --signal
// reload` does.
func (s *Server) Reload(change func(*server.Options)) {
	s.t.Helper()
	change(&s.opts)
	opts := s.opts
	if err := s.srv.ReloadOptions(&opts); err != nil {
		s.t.Fatalf("reload NATS: %v", err)
	}
}

// JetStream connects and makes the stream.
func (s *Server) JetStream() (*nats.Conn, jetstream.JetStream, bus.Names) {
	s.t.Helper()
	return s.JetStreamOf(s.Config())
}

// JetStreamOf is JetStream for another configuration of the stream.
func (s *Server) JetStreamOf(c bus.Config) (*nats.Conn, jetstream.JetStream, bus.Names) {
	s.t.Helper()
	nc := s.Connect()
	js, err := jetstream.New(nc)
	if err != nil {
		s.t.Fatalf("jetstream: %v", err)
	}
	names, err := bus.NewNames("")
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := bus.EnsureStream(s.t.Context(), js, names, c); err != nil {
		s.t.Fatal(err)
	}
	return nc, js, names
}
