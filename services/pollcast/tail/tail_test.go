package tail

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/pollcast/pollcast/pkg/daemon"
	"github.com/pollcast/pollcast/pkg/wire"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// golden reads an example frame of the protocol.
func golden(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../../proto/golden", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// gateway is a server that answers every subscribe frame with the same frames and
// then calls then.
type gateway struct {
	*httptest.Server
	then   func(ctx context.Context, n int, c *websocket.Conn) // n counts connections from 1
	frames []string
	mu     sync.Mutex
	n      int
	got    []wire.ClientFrame
	token  string
}

func startGateway(t *testing.T, frames ...string) *gateway {
	t.Helper()
	g := &gateway{frames: frames}
	for i, f := range frames {
		if !strings.HasPrefix(f, "{") {
			g.frames[i] = golden(t, f)
		}
	}
	g.Server = httptest.NewServer(http.HandlerFunc(g.serve))
	t.Cleanup(g.Close)
	return g
}

func (g *gateway) url() string { return "ws" + strings.TrimPrefix(g.URL, "http") + "/v1/ws" }

func (g *gateway) serve(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{wire.ProtocolJSON}})
	if err != nil {
		return
	}
	defer c.CloseNow()
	ctx := r.Context()
	g.mu.Lock()
	g.n++
	n := g.n
	g.token = r.Header.Get("Authorization")
	g.mu.Unlock()
	send := func(s string) { _ = c.Write(ctx, websocket.MessageText, []byte(s)) }
	send(`{"welcome":{"connection":"c1","gateway":"gw-1","epoch":"E1","pingIntervalMs":30000}}`)
	for {
		_, b, err := c.Read(ctx)
		if err != nil {
			return
		}
		var f wire.ClientFrame
		if json.Unmarshal(b, &f) != nil {
			return
		}
		g.mu.Lock()
		g.got = append(g.got, f)
		g.mu.Unlock()
		switch {
		case f.Subscribe != nil && f.Subscribe.Topics[0] == "secret.>":
			send(fmt.Sprintf(`{"id":%d,"error":{"code":"forbidden","message":"not for you","retryable":false}}`, f.ID))
		case f.Subscribe != nil:
			b, _ := json.Marshal(&wire.ServerFrame{ID: f.ID, Subscribed: &wire.Subscribed{Topics: f.Subscribe.Topics, Seq: 1,
				Epoch: "E1"}})
			send(string(b))
			for _, s := range g.frames {
				send(s)
			}
		case f.Ping != nil:
			send(fmt.Sprintf(`{"id":%d,"pong":{}}`, f.ID))
			if g.then != nil {
				g.then(ctx, n, c)
			}
		}
	}
}

// output is a stdout that a test can read while it is written.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func (o *output) await(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(patience); !strings.Contains(o.String(), want); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %q in:\n%s", want, o.String())
		}
	}
}

// start runs the command. end stops it and returns its exit code.
func start(t *testing.T, env []string, args ...string) (stdout, stderr *output, end func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	stdout, stderr = new(output), new(output)
	code := make(chan int, 1)
	go func() { code <- Command(ctx, args, env, stdout, stderr) }()
	end = sync.OnceValue(func() int {
		cancel()
		select {
		case c := <-code:
			return c
		case <-time.After(patience):
			t.Error("it does not end")
			return -1
		}
	})
	t.Cleanup(func() { end() })
	return stdout, stderr, end
}

func TestLines(t *testing.T) {
	g := startGateway(t,
		"server_event_live", "server_fresh", "server_fresh_stale", "server_breaker_open",
		"server_event_snapshot_stale", "server_fresh", "server_breaker_closed", "server_event_replay_keyed",
		"server_event_deleted",
		"server_event_position", "server_event_reorganised",
		`{"event":{"topic":"eth.head","seq":4900,"version":1,`+
			`"phase":"live","ageMs":5,"poll":"eth.head","breaker":"closed","data":"\u009b31m\u202e"}}`,
	)
	stdout, stderr, end := start(t, []string{"POLLCAST_URL=" + g.url()}, "host.>", "eth.>")
	stdout.await(t, "eth.head")
	if code := end(); code != daemon.ExitOK {
		t.Errorf("have exit code %d, want 0", code)
	}
	if stderr.String() != "" {
		t.Errorf("unexpected on stderr: %s", stderr.String())
	}
	for _, want := range []string{
		`  #0  {"number":"0x0"`, `  #24  reorganised  {"reorganised":{"from":26,"to":24,"id":"0xb495"}}`,
		`host.system.status  v97  `,
		`  {"hostname":"db-7","uptimeSeconds":864213,"cpu":[3.1,0.5],` +
			`"memory":{"total":16777216000,"used":4194304000},"load":[0.42,0.37,0.31]}` + "\n",
		`  host.system.status  stale breaker_open  `,
		`  http://127.0.0.1:12090/rpc answered 503 Service Unavailable  next probe `,
		`  host  breaker closed -> open  http://127.0.0.1:12090/rpc  answered 503 Service Unavailable  after 5 failures  ` +
			`next probe `,
		`  host.system.status  fresh again` + "\n",
		`  host  breaker half_open -> closed  http://127.0.0.1:12090/rpc  recovered` + "\n",
		`  host.storage.%2Fdev%2Fsda1  v3  `,
		`  host.storage.%2Fdev%2Fsdb1  v12  `,
		`  deleted` + "\n",
	} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("no %q in:\n%s", want, stdout.String())
		}
	}
	if strings.ContainsAny(stdout.String(), "\x1b\u009b\u202e") {
		t.Errorf("escape sequences where no terminal is: %q", stdout.String())
	}
	if n := strings.Count(stdout.String(), "stale breaker_open  "); n != 1 {
		t.Errorf("staleness printed %d times, want 1", n)
	}
	if have := g.got[0].Subscribe.Topics; len(have) != 2 || have[0] != "host.>" || have[1] != "eth.>" {
		t.Errorf("subscribed to %v, want what was asked for", have)
	}
}

func TestJSON(t *testing.T) {
	names := []string{"server_event_live", "server_fresh", "server_fresh_stale", "server_breaker_open",
		"server_event_replay_keyed", "server_event_deleted"}
	g := startGateway(t, append([]string(nil), names...)...)
	stdout, _, _ := start(t, nil, "host.>", "--json", "--url", g.url(), "--token", "s3cret")
	stdout.await(t, `"deleted":true`)
	have := strings.SplitAfter(stdout.String(), "\n")
	if !strings.HasPrefix(have[0], `{"local":true,"connection":{"connected":true,"gateway":"gw-1"`) {
		t.Errorf("have first %s, want the connection", have[0])
	}
	for i, name := range names {
		if want := golden(t, name); have[i+1] != want {
			t.Errorf("line %d:\nhave %s\nwant %s", i+1, have[i+1], want)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.token != "Bearer s3cret" {
		t.Errorf("have %q, want the token", g.token)
	}
}

// The loss of the gateway and its return are printed on stdout.
func TestConnectionLost(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		g := startGateway(t, "server_event_live", "server_fresh")
		g.then = func(_ context.Context, n int, c *websocket.Conn) {
			if n == 1 {
				_ = c.Close(websocket.StatusCode(wire.CloseRestart), "")
			}
		}
		args := []string{"-url", g.url()}
		if asJSON {
			args = append(args, "-json")
		}
		stdout, stderr, end := start(t, nil, args...)
		wants := []string{
			"gateway  connection lost: gateway closed the connection: 1012 restart; everything is stale, trying again",
			"gateway  connected again, to gw-1",
			"gateway  cannot give what was published meanwhile; the current values follow",
		}
		if asJSON {
			wants = []string{
				`{"local":true,"connection":{"connected":false,"error":"gateway closed the connection: 1012 restart"`,
				`{"local":true,"fresh":{"poll":"host.system.status"`, `"stale":true,"reason":"connection_lost"`,
				`{"local":true,"resumed":{"complete":false,"reason":""}}`,
			}
		}
		for _, want := range wants {
			stdout.await(t, want)
		}
		if code := end(); code != daemon.ExitOK || stderr.String() != "" {
			t.Errorf("have exit code %d and stderr %q, want a quiet 0", code, stderr.String())
		}
		if !asJSON && strings.Contains(stdout.String(), "stale connection_lost") {
			t.Errorf("printed for every poll:\n%s", stdout.String())
		}
	}
}

func TestCount(t *testing.T) {
	g := startGateway(t, "server_event_live", "server_fresh", "server_event_replay_keyed", "server_event_deleted")
	var stdout, stderr bytes.Buffer
	if code := Command(t.Context(), []string{"-count", "2", "-json", "-url", g.url()}, nil, &stdout,
		&stderr); code != daemon.ExitOK {
		t.Errorf("have exit code %d, want 0: %s", code, stderr.String())
	}
	if n := strings.Count(stdout.String(), `{"event":`); n != 2 {
		t.Errorf("have %d events, want 2:\n%s", n, stdout.String())
	}
}

func TestUnreachable(t *testing.T) {
	attempts := make(chan struct{}, 100)
	g := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		attempts <- struct{}{}
		panic(http.ErrAbortHandler) // closes the connection without an answer
	}))
	t.Cleanup(g.Close)
	url := "ws" + strings.TrimPrefix(g.URL, "http") + "/v1/ws"
	stdout, stderr, end := start(t, nil, "-url", url+"?key=s3cret")
	stderr.await(t, "trying again\n")
	for range 3 {
		select {
		case <-attempts:
		case <-time.After(patience):
			t.Fatal("it does not try again")
		}
	}
	if code := end(); code != daemon.ExitOK {
		t.Errorf("have exit code %d, want 0", code)
	}
	if stdout.String() != "" {
		t.Errorf("unexpected on stdout: %s", stdout.String())
	}
	have := stderr.String()
	if !strings.HasPrefix(have, "pollcast tail: cannot reach "+url+": ") || strings.Count(have, "\n") != 1 {
		t.Errorf("have %q, want one sentence", have)
	}
	if strings.Contains(have, "s3cret") {
		t.Errorf("it shows a secret: %s", have)
	}
}

func TestPermanentErrors(t *testing.T) {
	refuse := func(status int) *httptest.Server {
		return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	}
	closes := startGateway(t)
	closes.then = func(_ context.Context, _ int, c *websocket.Conn) { _ = c.Close(4503, "") }
	unauthorized, forbidden := refuse(401), refuse(403)
	defer unauthorized.Close()
	defer forbidden.Close()
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no token", []string{"-url", unauthorized.URL}, 1, "wants a token: give it with -token or in POLLCAST_TOKEN"},
		{"bad token", []string{"-url", unauthorized.URL, "-token", "x"}, 1, "does not accept the token"},
		{"forbidden", []string{"-url", forbidden.URL}, 1, "does not let this token in"},
		{"closed for good", []string{"-url", closes.url()}, 1, "as many connections of this user or address as it may"},
		{"refused topic", []string{"-url", closes.url(), "secret.>"}, 1, "refuses secret.>: not for you (forbidden)"},
		{"bad URL", []string{"-url", "localhost:12080"}, 1, "it looks like ws://localhost:12080/v1/ws"},
		{"bad topic", []string{"host..x"}, 2, `pattern "host..x": token 2 is empty`},
		{"bad flag", []string{"-nonsense"}, 2, "-nonsense"},
		{"bad count", []string{"-count", "-1"}, 2, "must not be negative"},
		{"help", []string{"-h"}, 0, "Prints events and freshness"},
	} {
		var stdout, stderr bytes.Buffer
		if code := Command(t.Context(), tt.args, nil, &stdout, &stderr); code != tt.code {
			t.Errorf("%s: have exit code %d, want %d", tt.name, code, tt.code)
		}
		if !strings.Contains(stderr.String(), tt.want) {
			t.Errorf("%s: no %q in %q", tt.name, tt.want, stderr.String())
		}
	}
	// The help does not show the token of the environment as a default.
	var stderr bytes.Buffer
	Command(t.Context(), []string{"-h"}, []string{"POLLCAST_TOKEN=s3cret"}, io.Discard, &stderr)
	if strings.Contains(stderr.String(), "s3cret") {
		t.Error("the help shows the token")
	}
}

func TestEnvironment(t *testing.T) {
	for _, tt := range []struct {
		env   []string
		args  []string
		url   string
		token string
		plain bool
	}{
		{nil, nil, DefaultURL, "", false},
		{[]string{"POLLCAST_URL=ws://a", "POLLCAST_TOKEN=t"}, nil, "ws://a", "t", false},
		{[]string{"POLLCAST_URL=ws://a", "POLLCAST_TOKEN=t"}, []string{"x.y", "-url=ws://b", "-token=u"}, "ws://b", "u",
			false},
		{[]string{"NO_COLOR=1"}, nil, DefaultURL, "", true},
		{[]string{"NO_COLOR="}, nil, DefaultURL, "", false},
		{[]string{"TERM=dumb"}, nil, DefaultURL, "", true},
	} {
		o, err := parse(tt.args, tt.env, io.Discard)
		if err != nil || o.URL != tt.url || o.Token != tt.token || o.Plain != tt.plain {
			t.Errorf("%v %v: have %+v, %v", tt.env, tt.args, o, err)
		}
	}
}

// brokenPipe is a closed stdout.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) {
	return 0, &os.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.EPIPE}
}

func TestClosedStdout(t *testing.T) {
	g := startGateway(t, "server_event_live")
	var stderr bytes.Buffer
	if code := Command(t.Context(), []string{"-url", g.url()}, nil, brokenPipe{}, &stderr); code != daemon.ExitOK ||
		stderr.Len() > 0 {
		t.Errorf("have exit code %d and %q, want a quiet 0", code, stderr.String())
	}
	full := errors.New("no space left")
	if code := Command(t.Context(), []string{"-url", g.url()}, nil, failing{full}, &stderr); code != daemon.ExitFailed ||
		!strings.Contains(stderr.String(), "no space left") {
		t.Errorf("have exit code %d and %q, want the error", code, stderr.String())
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// A pattern that matches nothing is reported once, so that the user notices a
// mistake.
func TestNothingMatches(t *testing.T) {
	g := startGateway(t, "server_event_live")
	topic := struct{ Event struct{ Topic string } }{}
	if err := json.Unmarshal([]byte(golden(t, "server_event_live")), &topic); err != nil {
		t.Fatal(err)
	}
	_, stderr, end := start(t, nil, "-url", g.url(), topic.Event.Topic, "hst.>", "eth.head")
	stderr.await(t, "pollcast tail: no topic matches hst.> eth.head yet; waiting")
	end()
}
