package bus_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/config"
)

// logText keeps what is logged.
type logText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// connect returns a connection and its log. The connection is closed when the
// test ends.
func connect(t *testing.T, c bus.Config) (*bus.Conn, *logText) {
	t.Helper()
	log := new(logText)
	conn, err := bus.Connect(bus.Options{Config: c, Role: "test", Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		if t.Failed() {
			t.Logf("log:\n%s", log)
		}
	})
	return conn, log
}

// The client library closes a connection for good when the server sends an error
// that it does not know. The connection is replaced, with its subscriptions.
func TestAnUnknownErrorEndsNoConnection(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t)
	_, js, _ := s.JetStream()
	proxy := s.NewProxy()
	conn, log := connect(t, proxy.Config())
	eventually(t, "connected", conn.IsConnected)
	got := make(chan string, 100)
	stop, err := conn.Subscribe("word", func(m *nats.Msg) { got <- string(m.Data) })
	if err != nil {
		t.Fatal(err)
	}
	rec := follow(t, proxy.Config())
	for i, message := range []string{
		"-ERR 'Whatever Is Wrong'", "-ERR 'Maximum Control Line Exceeded'", "-ERR 'Whatever Is Wrong'",
	} {
		rec.see(t, "the stream can be read", func() bool { return rec.up })
		before := conn.NATS()
		if proxy.Inject(message) < 2 {
			t.Fatal("not all clients are connected")
		}
		eventually(t, "another connection", func() bool { return conn.NATS() != before && conn.IsConnected() })
		publish(t, js, "a.b", i+1)
		rec.see(t, "what was published then", func() bool { return rec.up && rec.last == uint64(i+1) })
		if err := conn.NATS().Publish("word", []byte{byte('a' + i)}); err != nil {
			t.Fatal(err)
		}
		if have := <-got; have != string(rune('a'+i)) {
			t.Errorf("received %q after error %d", have, i)
		}
	}
	if have := strings.Count(log.String(), `error="nats: Whatever Is Wrong"`); have != 1 {
		t.Errorf("what NATS sent is logged %d times, want once within 30 s", have)
	}
	stop()
	if have := conn.NATS().NumSubscriptions(); have != 0 {
		t.Errorf("%d subscriptions are left", have)
	}
}

// A limit that a reload has changed is learnt: a lower one by the error, a higher
// one when it is asked for.
func TestLimitsAreLearnt(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t)
	conn, log := connect(t, s.Config())
	if have := conn.MaxPayload(); have != 1<<20 {
		t.Fatalf("max_payload is %d", have)
	}
	s.Reload(func(o *server.Options) { o.MaxPayload = 64 << 10 })
	if err := conn.NATS().Publish("a", make([]byte, 100<<10)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the lower limit", func() bool { return conn.IsConnected() && conn.MaxPayload() == 64<<10 })
	if !strings.Contains(log.String(), "Maximum Payload Violation") {
		t.Error("NATS's words are not logged")
	}
	s.Reload(func(o *server.Options) { o.MaxPayload = 512 << 10 })
	conn.LearnLimits()
	eventually(t, "the higher limit", func() bool { return conn.IsConnected() && conn.MaxPayload() == 512<<10 })
	if err := conn.NATS().Publish("a", make([]byte, 100<<10)); err != nil {
		t.Fatal(err)
	}
	if err := conn.NATS().Flush(); err != nil {
		t.Fatal(err)
	}
}

// A login that is refused for a while is tried again until it is accepted. That is
// logged once within 30 s, and it is the reason why there is no connection.
func TestARefusedLoginIsTriedAgain(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t)
	users := func(password string) func(*server.Options) {
		return func(o *server.Options) { o.Users = []*server.User{{Username: "u", Password: password}} }
	}
	s.Reload(users("one"))
	proxy := s.NewProxy()
	c := proxy.Config()
	c.User, c.Password = "u", config.NewSecret("one")
	conn, log := connect(t, c)
	eventually(t, "connected", conn.IsConnected)
	s.Reload(users("two"))
	refused := func() bool {
		err := conn.Err()
		return err != nil && strings.Contains(err.Error(), "Authorization Violation")
	}
	eventually(t, "the reason", refused)
	tries := proxy.Accepted()
	eventually(t, "several tries", func() bool { return proxy.Accepted() > tries+3 })
	s.Reload(users("one"))
	eventually(t, "connected again", conn.IsConnected)
	if have := strings.Count(strings.ToLower(log.String()), "authorization violation"); have == 0 || have > 2 {
		t.Errorf("logged %d times", have)
	}
	if err := conn.Err(); err != nil {
		t.Errorf("connected, but there is a reason why not: %v", err)
	}
}

// Close and Drain end a connection, also while it is being replaced.
func TestCloseEndsAConnection(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t)
	for i := range 6 {
		proxy := s.NewProxy()
		conn, log := connect(t, proxy.Config())
		if i%2 == 0 {
			proxy.Inject("-ERR 'Whatever Is Wrong'")
		}
		time.Sleep(time.Duration(i) * 100 * time.Millisecond)
		if i < 3 {
			conn.Close()
		} else {
			conn.Drain(time.Second)
		}
		if !conn.NATS().IsClosed() {
			t.Errorf("%d: not closed; log:\n%s", i, log)
		}
	}
}
