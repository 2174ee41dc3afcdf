//go:build system

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// downloader is aria2c, a JSON-RPC server of another project.
type downloader struct {
	t          *testing.T
	path, addr string
	dir        string
	process    *process
}

// secret must not be seen anywhere.
const secret = "d0wnl0ad-s3cret-4711"

func newDownloader(t *testing.T) *downloader {
	path, err := exec.LookPath("aria2c")
	if err != nil {
		t.Fatal("this test needs aria2c: install the Debian package aria2 (apt-get install aria2)")
	}
	return &downloader{t: t, path: path, addr: freeAddr(t), dir: t.TempDir()}
}

func (d *downloader) url() string { return "http://" + d.addr + "/jsonrpc" }

// start runs aria2c and waits until it answers.
func (d *downloader) start(secret string) {
	d.t.Helper()
	_, port, err := net.SplitHostPort(d.addr)
	if err != nil {
		d.t.Fatal(err)
	}
	d.process = run(d.t, command{
		name: "aria2c", bin: d.path, rough: true,
		args: []string{
			"--no-conf", "--enable-rpc", "--rpc-listen-port=" + port, "--rpc-secret=" + secret, "--dir=" + d.dir,
			"--split=1", "--file-allocation=none", "--disable-ipv6", "--async-dns=false", "--quiet",
		},
	})
	eventually(d.t, "aria2c answers", func() error {
		_, err := d.call(secret, "aria2.getVersion")
		return err
	})
}

// call makes a JSON-RPC call.
func (d *downloader) call(secret, method string, params ...any) (json.RawMessage, error) {
	body, err := json.Marshal(map[string]any{
		"jsonrpc": "2.0", "id": 1, "method": method, "params": append([]any{"token:" + secret}, params...),
	})
	if err != nil {
		return nil, err
	}
	res, err := web.Post(d.url(), "application/json", strings.NewReader(string(body)))
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var answer struct{ Result, Error json.RawMessage }
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Error != nil {
		return nil, fmt.Errorf("%s: %s", method, answer.Error)
	}
	return answer.Result, nil
}

// TestAria2 polls a real server of another project with the example
// configuration: its values are live, it is killed and comes back, and its secret
// is seen nowhere.
func TestAria2(t *testing.T) {
	d := newDownloader(t)
	s := newStack(t, "")
	s.file, s.env = "../../../deploy/examples/aria2.yaml", []string{"ARIA2_TOKEN=" + secret}
	s.sets = []string{"nats.url=" + s.nats.url(), "log.level=debug"}
	d.start(secret)
	s.nats.start()
	poller := s.poller(`poller.sources.aria2.upstreams=["`+d.url()+`"]`, "poller.sources.aria2.breaker.openFor=2s")
	gateway := s.gateway()
	gateway.ready()
	messages := listen(t, s.nats)
	c := dial(t, gateway.addr, "/v1/ws?topics=aria2.>")

	// Live values, through the WebSocket, of what aria2 does.
	version := c.await("aria2's version", anyEvent("aria2.version"))
	if have, err := d.call(secret, "aria2.getVersion"); err != nil || version.Event.Stale ||
		!sameJSON(t, have, version.Event.Data) {
		t.Errorf("aria2.version is %s, aria2 answers %s %v", version.raw, have, err)
	}
	c.back(0)
	c.await("nothing is downloaded", func(f frame) bool {
		return anyEvent("aria2.stat")(f) && strings.Contains(string(f.Event.Data), `"numActive":"0"`)
	})
	c.back(0)
	c.await("no download", func(f frame) bool { return anyEvent("aria2.active")(f) && string(f.Event.Data) == "[]" })
	file := slowFile(t)
	gid, err := d.call(secret, "aria2.addUri", []string{file})
	if err != nil {
		t.Fatal(err)
	}
	c.await("one download", func(f frame) bool {
		return liveEvent("aria2.stat")(f) && strings.Contains(string(f.Event.Data), `"numActive":"1"`)
	})
	c.back(0)
	begun := completed(t, c, string(gid), 1)
	completed(t, c, string(gid), begun+1)

	// It is killed: the values are stale, with a reason, and the last value
	// stays.
	d.process.kill()
	for _, poll := range []string{"aria2.stat", "aria2.active"} {
		place := c.skip()
		c.back(0)
		// It is stale because of the failure, and not because there is no value
		// yet.
		f := c.await(poll+" is stale", isStale(poll, "upstream_error", "breaker_open"))
		if f.Fresh.Detail != "connection refused" {
			t.Errorf("aria2c was killed: %s", f.raw)
		}
		c.back(place)
	}
	open := c.await("the breaker opens", func(f frame) bool {
		return isStale("aria2.stat")(f) &&
			f.Fresh.Breaker == "open"
	})
	late := dial(t, gateway.addr, "/v1/ws?topics=aria2.active")
	if e := late.await("the last value", anyEvent("aria2.active")).Event; !e.Stale ||
		!strings.Contains(string(e.Data), string(gid)) {
		t.Errorf("the last value of aria2.active, while %s: %s, stale %v", open.Fresh.Detail, e.Data, e.Stale)
	}

	// It is back with another secret: the request is wrong, but aria2 runs.
	c.skip()
	d.start("another-" + secret[:4])
	f := c.await("the wrong secret is refused", isStale("aria2.stat", "request_rejected"))
	if f.Fresh.Breaker != "closed" || !strings.Contains(f.Fresh.Detail, "Unauthorized") {
		t.Errorf("aria2c has another secret: %s", f.raw)
	}

	// It is back with the first secret.
	d.process.kill()
	c.skip()
	d.start(secret)
	c.await("fresh again", isFresh("aria2.stat"))
	c.await("nothing is downloaded any more", func(f frame) bool {
		return liveEvent("aria2.active")(f) && !f.Event.Stale && string(f.Event.Data) == "[]"
	})

	// The secret was sent in every call and must be nowhere else.
	places := map[string]string{"the poller's logs": poller.logs(), "the gateway's logs": gateway.logs(),
		"NATS's logs": s.nats.process.logs(), "messages on NATS": messages()}
	for name, url := range map[string]string{
		"/status": poller.ops + "/status", "the poller's /metrics": poller.ops + "/metrics",
		"the gateway's /metrics": gateway.ops + "/metrics",
		"/v1/topics":             gateway.addr + "/v1/topics",
	} {
		code, body, err := get("http://" + url)
		if err != nil || code != http.StatusOK {
			t.Errorf("%s: HTTP %d %v", name, code, err)
		}
		places[name] = string(body)
	}
	printed := run(t, command{name: "poller -print-config", bin: bin.poller,
		args: []string{"-print-config", "-config", s.file}, env: s.env})
	if code := printed.wait(endTime); code != 0 {
		t.Errorf("poller -print-config: exit code %d", code)
	}
	places["poller -print-config"] = printed.logs()
	for _, fr := range append(c.seen(func(frame) bool { return true }), late.seen(func(frame) bool { return true })...) {
		places["frames"] += fr.raw + "\n"
	}
	for name, text := range places {
		if len(text) < 20 {
			t.Errorf("%s: there is nothing in it to look through: %q", name, text)
		}
		if strings.Contains(text, secret) {
			t.Errorf("the secret is in %s", name)
		}
	}
	if code := poller.end(syscall.SIGTERM); code != 0 {
		t.Errorf("the poller ended with exit code %d", code)
	}
}

// completed waits until the download has more than atLeast bytes, and returns how
// many.
func completed(t *testing.T, c *client, gid string, atLeast int) (bytes int) {
	t.Helper()
	c.await(fmt.Sprintf("a download of more than %d bytes", atLeast), func(f frame) bool {
		if f.Event == nil || f.Event.Topic != "aria2.active" || f.Event.Stale {
			return false
		}
		var all []struct{ GID, Status, CompletedLength string }
		if err := json.Unmarshal(f.Event.Data, &all); err != nil {
			t.Fatalf("aria2.active: %v: %s", err, f.raw)
		}
		for _, d := range all {
			if `"`+d.GID+`"` == gid && d.Status == "active" {
				bytes, _ = strconv.Atoi(d.CompletedLength) // 0 if it is not a number
			}
		}
		return bytes >= atLeast
	})
	return bytes
}

// slowFile returns the address of a file whose download takes longer than the
// test.
func slowFile(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(1<<30))
		for page := make([]byte, 64<<10); r.Context().Err() == nil; time.Sleep(100 * time.Millisecond) {
			if _, err := w.Write(page); err != nil {
				return
			}
		}
	})}
	go srv.Serve(ln) // ends with Close
	t.Cleanup(func() { srv.Close() })
	return "http://" + ln.Addr().String() + "/slow.iso"
}

// listen collects every message, with its headers, of every subject that a reader
// may see, until the test ends.
func listen(t *testing.T, n *natsServer) func() string {
	t.Helper()
	nc := n.connect("reader")
	all := new(output)
	_, err := nc.Subscribe("pollcast.live.>", func(m *nats.Msg) {
		fmt.Fprintf(all, "%s %v %s\n", m.Subject, m.Header, m.Data)
	})
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	return all.String
}

func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	one, err1 := json.Marshal(x)
	two, err2 := json.Marshal(y)
	return err1 == nil && err2 == nil && string(one) == string(two)
}
