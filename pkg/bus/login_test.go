package bus_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/config"
)

// recorder is a server that asks for a signature and keeps what clients send. It
// refuses each login, so that clients come again.
type recorder struct {
	url string

	mu       sync.Mutex
	received strings.Builder
	connects []loginFrame
}

// loginFrame is what a client sends to log in.
type loginFrame struct {
	JWT  string `json:"jwt"`
	Key  string `json:"nkey"`
	Sig  string `json:"sig"`
	User string `json:"user"`
	Pass string `json:"pass"`
}

func newRecorder(t *testing.T) *recorder {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{url: "nats://" + ln.Addr().String()}
	var wg sync.WaitGroup
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			r.serve(c)
		}
	})
	return r
}

func (r *recorder) serve(c net.Conn) {
	defer c.Close()
	const info = `INFO {"server_id":"S","version":"2.12.0","headers":true,"auth_required":true,"nonce":"abc"}`
	_, _ = fmt.Fprint(c, info+"\r\n")
	for lines := bufio.NewScanner(c); lines.Scan(); {
		r.mu.Lock()
		r.received.WriteString(lines.Text() + "\n")
		if body, ok := strings.CutPrefix(lines.Text(), "CONNECT "); ok {
			var login loginFrame
			_ = json.Unmarshal([]byte(body), &login)
			r.connects = append(r.connects, login)
		}
		r.mu.Unlock()
		if strings.HasPrefix(lines.Text(), "PING") {
			_, _ = fmt.Fprint(c, "-ERR 'Authorization Violation'\r\n")
			return
		}
	}
}

// last waits for a login that ok accepts.
func (r *recorder) last(t *testing.T, what string, ok func(loginFrame) bool) {
	t.Helper()
	eventually(t, what, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.connects) > 0 && ok(r.connects[len(r.connects)-1])
	})
}

// userKey makes a user's key.
func userKey(t *testing.T) (seed, public string) {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	s, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	if public, err = pair.PublicKey(); err != nil {
		t.Fatal(err)
	}
	return string(s), public
}

func block(kind, text string) string {
	return "-----BEGIN " + kind + "-----\n" + text + "\n------END " + kind + "------\n\n"
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A seed signs. It is never sent, whatever the file looks like, and also when the
// file changes while the service runs.
func TestASeedIsNeverSent(t *testing.T) {
	t.Parallel()
	seed, public := userKey(t)
	const token = "eyJ0eXAiOiJKV1QifQ.eyJzdWIiOiJ1In0.c2ln"
	byKey := func(c loginFrame) bool { return c.Key == public && c.Sig != "" && c.JWT == "" }
	byJWT := func(c loginFrame) bool { return c.JWT == token && c.Sig != "" && c.Key == "" }
	for _, tt := range []struct {
		name, file string
		ok         func(loginFrame) bool
	}{
		{"a bare seed", seed, byKey},
		{"a seed and a newline", seed + "\n\n", byKey},
		{"a seed in a block", block("USER NKEY SEED", seed), byKey},
		{"a seed in the JWT's block", block("NATS USER JWT", seed) + block("USER NKEY SEED", seed), byKey},
		{"a JWT and its seed", block("NATS USER JWT", token) + block("USER NKEY SEED", seed), byJWT},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, name := newRecorder(t), filepath.Join(t.TempDir(), "u.creds")
			write(t, name, tt.file)
			c := bus.DefaultConfig()
			c.URL, c.Creds = r.url, name
			c.Check(func(path, problem, fix string) { t.Errorf("%s: %s", path, problem) })
			connect(t, c)
			r.last(t, "a login", tt.ok)
			for _, other := range []string{seed, block("NATS USER JWT", token) + block("USER NKEY SEED", seed), seed} {
				write(t, name, other)
				r.last(t, "the other login", map[bool]func(loginFrame) bool{true: byKey, false: byJWT}[other == seed])
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			if strings.Contains(r.received.String(), seed) {
				t.Error("the seed was sent")
			}
		})
	}
}

// A key logs in at a real server. A file that has another key later is used for the
// next login.
func TestLoginByKey(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t)
	first, firstKey := userKey(t)
	second, secondKey := userKey(t)
	s.Reload(func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: firstKey}} })
	c := s.Config()
	c.Creds = filepath.Join(t.TempDir(), "u.nk")
	write(t, c.Creds, first)
	conn, _ := connect(t, c)
	eventually(t, "connected", conn.IsConnected)
	s.Reload(func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: secondKey}} })
	eventually(t, "the login is refused", func() bool { return conn.Err() != nil })
	write(t, c.Creds, second)
	eventually(t, "connected by the other key", conn.IsConnected)
}

// Secrets in the wrong place are refused at start, without showing them.
func TestCheckSecrets(t *testing.T) {
	seed, _ := userKey(t)
	account, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	accountSeed, err := account.Seed()
	if err != nil {
		t.Fatal(err)
	}
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "c")
		write(t, name, text)
		return name
	}
	const token = "eyJ0eXAiOiJKV1QifQ.eyJzdWIiOiJ1In0.c2ln"
	for _, tt := range []struct {
		change func(*bus.Config)
		want   string
	}{
		{func(c *bus.Config) { c.User, c.Password = "u", config.NewSecret(seed) }, "password: it is the seed of a key"},
		{func(c *bus.Config) { c.User = string(accountSeed) }, "user: it is the seed of a key"},
		{func(c *bus.Config) { c.URL = "nats://" + seed + "@h:4222" }, "url: it is the seed of a key"},
		{func(c *bus.Config) { c.URL = "nats://h:4222,nats://u:" + seed + "@h:4222" }, "url: it is the seed of a key"},
		{func(c *bus.Config) { c.URL, c.Creds = "nats://u:p@h", file(seed) }, "credentials: both a user in nats.url"},
		{func(c *bus.Config) { c.Creds = file(string(accountSeed)) }, "it holds no user's key"},
		{func(c *bus.Config) { c.Creds = file(token) }, "it holds no user's key"},
		{func(c *bus.Config) { c.Creds = file(token + "\n" + seed) }, "it holds more than a seed"},
		{func(c *bus.Config) { c.Creds = file(seed + "\n" + seed) }, "it holds more than a seed"},
		{func(c *bus.Config) { c.Creds = file("") }, "it holds no user's key"},
	} {
		c, report := bus.DefaultConfig(), ""
		tt.change(&c)
		c.Check(func(path, problem, fix string) { report += path + ": " + problem + "; " + fix + "\n" })
		shown := strings.Contains(report, seed) || strings.Contains(report, string(accountSeed))
		if !strings.Contains(report, tt.want) || shown {
			t.Errorf("the check reports %q, want %q", report, tt.want)
		}
	}
}
