package up

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/pkg/event"
)

// access is a NATS server that holds a stream and a lease, and its users.
type access struct {
	t      *testing.T
	url    string
	names  bus.Names
	inside nats.Option // a user without limits in the account of the services
	nc     *nats.Conn  // of that user
	js     jetstream.JetStream

	replicas int // of the streams
}

// TestAccessUp checks what a client without credentials can do to the NATS server
// of `pollcast up`.
func TestAccessUp(t *testing.T) {
	c := bus.DefaultConfig()
	c.URL = "nats://127.0.0.1:0"
	e, c, err := startNATS(c, t.TempDir(), false, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.stop() }) // it never fails
	a := &access{t: t, url: "nats://" + e.addr(), inside: nats.UserInfo(c.User, c.Password.Reveal())}
	a.fill()
	a.readerCan(nil)
	a.cannotWrite(nil)
}

// TestAccessConfig checks what the users of deploy/config/nats.conf can do.
func TestAccessConfig(t *testing.T) {
	a := configured(t)
	t.Run("reader", func(t *testing.T) {
		a.t = t
		a.readerCan(nats.UserInfo("reader", "reader"))
		a.cannotWrite(nats.UserInfo("reader", "reader"))
	})
	t.Run("gateway", func(t *testing.T) {
		a.t = t
		a.gatewayCan()
		a.cannotWrite(nats.UserInfo("gateway", "gateway"))
	})
}

// TestAccessCluster checks that a gateway reads through every server of a cluster,
// whichever leads the stream.
func TestAccessCluster(t *testing.T) {
	var ports []int
	var routes []*url.URL
	for range 3 { // a server needs the routes to all before it starts
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		routes = append(routes, &url.URL{Scheme: "nats-route", Host: l.Addr().String()})
		l.Close()
	}
	var servers []*server.Server
	for i, port := range ports {
		opts := options(t)
		opts.ServerName = fmt.Sprintf("access-%d", i)
		opts.Cluster = server.ClusterOpts{Name: "access", Host: "127.0.0.1", Port: port}
		opts.Routes = routes
		servers = append(servers, launch(t, opts))
	}
	a := &access{t: t, url: servers[0].ClientURL(), inside: nats.UserInfo("admin", "admin"), replicas: 3}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		ready := 0
		for _, s := range servers {
			if s.JetStreamIsCurrent() && s.NumRoutes() > 0 {
				ready++
			}
		}
		if ready == len(servers) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the cluster does not form")
		}
	}
	a.fill()
	a.store(5, lastData)
	for _, s := range servers {
		a.url = s.ClientURL()
		a.gatewayCan()
	}
}

// configured starts a server with the file.
func configured(t *testing.T) *access {
	t.Helper()
	a := &access{t: t, url: start(t, options(t)).ClientURL(), inside: nats.UserInfo("admin", "admin"), replicas: 1}
	a.fill()
	return a
}

// options reads the file, and adds a user without limits.
func options(t *testing.T) *server.Options {
	t.Helper()
	t.Setenv("NATS_NAME", "access")
	for _, user := range []string{"poller", "gateway", "reader"} {
		t.Setenv("NATS_"+strings.ToUpper(user)+"_PASSWORD", strconv.Quote(user))
	}
	text, err := os.ReadFile("../../../deploy/config/nats.conf")
	if err != nil {
		t.Fatal(err)
	}
	const users = "  users: [\n" // the first is that of the services
	file := filepath.Join(t.TempDir(), "nats.conf")
	admin := strings.Replace(string(text), users, users+"{ user: admin, password: admin }\n", 1)
	if err := os.WriteFile(file, []byte(admin), 0o600); err != nil {
		t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	opts.Host, opts.Port, opts.HTTPPort, opts.StoreDir = "127.0.0.1", server.RANDOM_PORT, 0, t.TempDir()
	opts.NoSigs, opts.NoLog = true, true
	return opts
}

func start(t *testing.T, opts *server.Options) *server.Server {
	t.Helper()
	srv := launch(t, opts)
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("NATS is not ready")
	}
	return srv
}

// launch starts a server and does not wait until it is ready: in a cluster it is that
// only with the others.
func launch(t *testing.T, opts *server.Options) *server.Server {
	t.Helper()
	srv, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	return srv
}

const (
	lastTopic = "host.cpu"
	lastData  = `{"load":3}`
)

// fill makes the stream and the leases, with values in both.
func (a *access) fill() {
	a.t.Helper()
	var err error
	if a.names, err = bus.NewNames(""); err != nil {
		a.t.Fatal(err)
	}
	a.nc = a.connect(a.inside)
	if a.js, err = jetstream.New(a.nc); err != nil {
		a.t.Fatal(err)
	}
	c := bus.DefaultConfig()
	c.Replicas = max(a.replicas, 1)
	if _, err := bus.EnsureStream(a.t.Context(), a.js, a.names, c); err != nil {
		a.t.Fatal(err)
	}
	c.LeaseTime = time.Hour
	leases, err := bus.EnsureLeases(a.t.Context(), a.js, a.names, c)
	if err != nil {
		a.t.Fatal(err)
	}
	if _, err := leases.Create(a.t.Context(), "host", []byte(`"mine"`)); err != nil {
		a.t.Fatal(err)
	}
	for i := range uint64(4) {
		a.store(i, fmt.Sprintf(`{"load":%d}`, i))
	}
}

// store publishes a version of the topic as a poller does.
func (a *access) store(version uint64, data string) {
	a.t.Helper()
	now := time.Now().Add(time.Duration(version) * time.Millisecond) // the message's id holds it
	m := a.names.EventMsg(&event.Event{Topic: lastTopic, Poll: lastTopic, Data: []byte(data), Version: version,
		ChangedAt: now, AsOf: now, Fence: 1}, now)
	if _, err := a.js.PublishMsg(a.t.Context(), m); err != nil {
		a.t.Fatal(err)
	}
}

func (a *access) connect(opts ...nats.Option) *nats.Conn {
	a.t.Helper()
	opts = slices.DeleteFunc(opts, func(o nats.Option) bool { return o == nil })
	nc, err := nats.Connect(a.url, append(opts, nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))...)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(nc.Close)
	return nc
}

// readerCan checks what the documentation promises to a reader: what is live, and
// the last value of a topic.
func (a *access) readerCan(user nats.Option) {
	a.t.Helper()
	nc := a.connect(user)
	live, err := nc.SubscribeSync("pollcast.live.>")
	if err != nil {
		a.t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		a.t.Fatal(err)
	}
	a.store(4, `{"load":4}`)
	a.store(5, lastData)
	for _, want := range []string{`{"load":4}`, lastData} {
		m, err := live.NextMsg(10 * time.Second)
		if err != nil || string(m.Data) != want || m.Header.Get("Nats-Sequence") == "" {
			a.t.Fatalf("live: %v, %v; want %s and its sequence number", m, err, want)
		}
	}
	m, err := nc.Request("$JS.API.DIRECT.GET.POLLCAST.pollcast.in."+lastTopic, nil, 10*time.Second)
	if err != nil || string(m.Data) != lastData || m.Header.Get("Nats-Subject") != "pollcast.in."+lastTopic {
		a.t.Fatalf("the last value: %v, %v; want %s", m, err, lastData)
	}
}

// gatewayCan checks what a gateway asks of NATS: the stream's position, the last
// message of every subject, what followed a message, and the leader.
func (a *access) gatewayCan() {
	a.t.Helper()
	c := bus.DefaultConfig()
	c.URL, c.User, c.Password = a.url, "gateway", config.NewSecret("gateway")
	c.JetStream.APIPrefix = "pollcast.api"
	names, err := c.Names()
	if err != nil {
		a.t.Fatal(err)
	}
	conn, err := bus.Connect(bus.Options{Config: c, Role: "gateway", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		a.t.Fatal(err)
	}
	defer conn.Close()
	s, err := bus.State(a.t.Context(), conn.JetStream(), names)
	if err != nil || s.LastSeq == 0 || s.Epoch == "" {
		a.t.Fatalf("the stream's state: %+v, %v", s, err)
	}
	last := ""
	_, err = names.LastPerSubject(a.t.Context(), conn.NATS(), conn.JetStream(), names.InAll(), s.LastSeq,
		func(m *nats.Msg) { last = string(m.Data) })
	if err != nil || last != lastData {
		a.t.Fatalf("the last message of every subject: %s, %v; want %s", last, err, lastData)
	}
	n := uint64(0)
	err = names.Range(a.t.Context(), conn.NATS(), names.InAll(), s.FirstSeq, s.LastSeq, func(*nats.Msg) { n++ })
	if err != nil || n != s.LastSeq-s.FirstSeq+1 {
		a.t.Fatalf("messages %d to %d: %d messages, %v", s.FirstSeq, s.LastSeq, n, err)
	}
	n = 0
	err = names.Range(a.t.Context(), conn.NATS(), names.In("absent"), s.FirstSeq, s.LastSeq, func(*nats.Msg) { n++ })
	if err != nil || n != 0 { // it has asked the leader
		a.t.Fatalf("messages of no topic: %d messages, %v", n, err)
	}
}

// cannotWrite tries every subject of the account as the subject and as the reply
// subject of what a user publishes, and checks that the streams and what others
// hear are as before.
func (a *access) cannotWrite(user nats.Option) {
	a.t.Helper()
	before := a.contents()
	heard := map[string]*nats.Subscription{}
	hear := func(who, subject string, nc *nats.Conn) {
		sub, err := nc.SubscribeSync(subject)
		if err != nil {
			a.t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			a.t.Fatal(err)
		}
		heard[who+" on "+subject] = sub
	}
	for _, subject := range []string{"pollcast.>", "$KV.>", "_INBOX_poller.>", "_INBOX_gateway.>", "_INBOX.x"} {
		hear("the services", subject, a.connect(a.inside))
	}
	hear("another reader", "pollcast.live.>", a.connect(user))

	nc := a.connect(user)
	bodies := []string{"", `{"seq":1,"next_by_subj":"pollcast.in.>","batch":1000}`, `{"multi_last":[">"]}`, `{"seq":1}`}
	for _, subject := range subjects() {
		for _, reply := range subjects() {
			for _, body := range bodies {
				m := &nats.Msg{Subject: subject, Reply: reply, Data: []byte(body)}
				a.publish(nc, m)
				m.Header = nats.Header{"Nats-Trace-Dest": {reply}, "ce-type": {"pollcast.event.v1"}}
				a.publish(nc, m)
			}
		}
	}
	a.settle(nc)
	if now := a.contents(); !maps.Equal(before, now) {
		for _, key := range slices.Sorted(maps.Keys(now)) {
			if before[key] != now[key] {
				a.t.Errorf("%s was written: %.200s", key, now[key])
			}
		}
		for _, key := range slices.Sorted(maps.Keys(before)) {
			if _, ok := now[key]; !ok {
				a.t.Errorf("%s was removed", key)
			}
		}
	}
	for who, sub := range heard {
		if n, _, err := sub.Pending(); n > 0 || err != nil {
			m, _ := sub.NextMsg(0)
			a.t.Errorf("%s: %d messages, %v; the first: %+v", who, n, err, m)
		}
	}
}

func (a *access) publish(nc *nats.Conn, m *nats.Msg) {
	a.t.Helper()
	if err := nc.PublishMsg(m); err != nil {
		a.t.Fatalf("publish on %s: %v", m.Subject, err)
	}
}

// settle waits until the server has worked on what the client has published: the
// API answers in the order of its requests, and the streams store in that of
// their messages.
func (a *access) settle(nc *nats.Conn) {
	a.t.Helper()
	if err := nc.FlushTimeout(30 * time.Second); err != nil {
		a.t.Fatal(err)
	}
	for last := -1; ; { // until two looks are the same
		for range 3 {
			if _, err := a.js.AccountInfo(a.t.Context()); err != nil {
				a.t.Fatal(err)
			}
		}
		now := len(a.contents())
		if now == last {
			break
		}
		last = now
	}
	if err := a.nc.Flush(); err != nil {
		a.t.Fatal(err)
	}
}

// contents returns every message of every stream, and the streams' settings and
// consumers.
func (a *access) contents() map[string]string {
	a.t.Helper()
	all := map[string]string{}
	list := a.js.ListStreams(a.t.Context())
	for info := range list.Info() {
		name := info.Config.Name
		settings, err := json.Marshal(info.Config)
		if err != nil {
			a.t.Fatal(err)
		}
		all["the settings of "+name] = fmt.Sprintf("%s, %d consumers", settings, info.State.Consumers)
		s, err := a.js.Stream(a.t.Context(), name)
		if err != nil {
			a.t.Fatal(err)
		}
		for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
			m, err := s.GetMsg(a.t.Context(), seq)
			if err != nil {
				a.t.Fatalf("message %d of %s: %v", seq, name, err)
			}
			all[fmt.Sprintf("message %d of %s, on %s", seq, name, m.Subject)] = fmt.Sprintf("%v %s", m.Header, m.Data)
		}
	}
	if err := list.Err(); err != nil {
		a.t.Fatal(err)
	}
	return all
}

// subjects returns the subjects of the account of the services, and those of
// NATS's own services.
func subjects() []string {
	all := []string{
		"pollcast.in." + lastTopic, "pollcast.in." + lastTopic + "._fresh", "pollcast.in.host._breaker",
		"pollcast.in.evil.poll._fresh", "pollcast.live." + lastTopic, "pollcast.live." + lastTopic + "._fresh",
		"$KV.pollcast_leases.host", "$KV.pollcast_leases.evil",
		"_INBOX.x", "_INBOX_poller.x", "_INBOX_gateway.x", "$SYS.REQ.SERVER.PING", "$SYS.REQ.USER.INFO",
		"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.META.LEADER.STEPDOWN",
		"$JS.API.SERVER.REMOVE", "$JS.API.ACCOUNT.PURGE.POLLCAST",
		"$JS.API.DIRECT.GET.POLLCAST.pollcast.in.>", "$JS.API.DIRECT.GET.POLLCAST.pollcast.in." + lastTopic,
		"$JS.API.DIRECT.GET.KV_pollcast_leases.$KV.pollcast_leases.host",
		"$JS.EVENT.ADVISORY.STREAM.DELETED.POLLCAST", "pollcast.api.STREAM.INFO.POLLCAST",
		"pollcast.api.STREAM.MSG.GET.POLLCAST", "pollcast.api.DIRECT.GET.POLLCAST", "pollcast.api.STREAM.DELETE.POLLCAST",
		"pollcast.refused." + lastTopic, "evil",
	}
	for _, stream := range []string{"POLLCAST", "KV_pollcast_leases", "EVIL"} {
		for _, verb := range []string{
			"STREAM.CREATE", "STREAM.UPDATE", "STREAM.INFO", "STREAM.DELETE", "STREAM.PURGE", "STREAM.SNAPSHOT",
			"STREAM.RESTORE", "STREAM.MSG.GET", "STREAM.MSG.DELETE", "STREAM.PEER.REMOVE", "STREAM.LEADER.STEPDOWN",
			"DIRECT.GET", "CONSUMER.NAMES", "CONSUMER.LIST", "CONSUMER.CREATE",
		} {
			all = append(all, "$JS.API."+verb+"."+stream)
		}
		for _, verb := range []string{"CREATE", "DURABLE.CREATE", "INFO", "DELETE", "MSG.NEXT", "PAUSE"} {
			all = append(all, "$JS.API.CONSUMER."+verb+"."+stream+".evil")
		}
	}
	return all
}

// TestNATSAddress checks that only -public-nats lets other machines reach NATS.
func TestNATSAddress(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "127.1.2.3", "[::1]", "localhost"} {
		if _, port, err := natsAddress("nats://"+host+":4222", false); err != nil || port != 4222 {
			t.Errorf("%s: port %d, %v", host, port, err)
		}
	}
	for _, host := range []string{"", "0.0.0.0", "[::]", "192.0.2.7", "example.com", "localhost.example.com"} {
		if _, _, err := natsAddress("nats://"+host+":4222", false); err == nil || !strings.Contains(err.Error(), "-public-nats") {
			t.Errorf("%q: %v, want it refused with the flag that allows it", host, err)
		}
		if _, _, err := natsAddress("nats://"+host+":4222", true); err != nil {
			t.Errorf("%q: %v", host, err)
		}
	}
}

// TestNATSAgain checks that the stream is there and can be updated after a restart.
func TestNATSAgain(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		c := bus.DefaultConfig()
		c.URL = "nats://127.0.0.1:0"
		e, c, err := startNATS(c, dir, false, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		a := &access{t: t, url: "nats://" + e.addr(), inside: nats.UserInfo(c.User, c.Password.Reveal())}
		a.nc = a.connect(a.inside)
		if a.names, err = bus.NewNames(""); err == nil {
			a.js, err = jetstream.New(a.nc)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bus.EnsureStream(t.Context(), a.js, a.names, c); err != nil {
			t.Fatal(err)
		}
		a.nc.Close()
		_ = e.stop() // it never fails
	}
}
