package client

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/topic"
	"github.com/pollcast/pollcast/pkg/wire"
)

// stream is shared by the gateways of a test: the published events, in order, and
// the freshness of every poll.
type stream struct {
	mu       sync.Mutex
	epoch    string
	seq      uint64
	events   []wire.Event
	trimmed  uint64 // events up to here are not replayed
	versions map[string]uint64
	last     map[string]wire.Event
	polls    map[string]event.Freshness
	gateways []*gateway
}

func newStream() *stream {
	s := &stream{}
	s.reset("E1")
	return s
}

// reset starts another incarnation of the stream.
func (s *stream) reset(epoch string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch, s.seq, s.trimmed, s.events = epoch, 0, 0, nil
	s.versions, s.last, s.polls = map[string]uint64{}, map[string]wire.Event{}, map[string]event.Freshness{}
}

func (s *stream) publish(topic string, data any) wire.Event {
	return s.add(wire.Event{Topic: topic, Poll: topic, AsOf: time.Now(), AgeMs: 1}, data)
}

func (s *stream) publishKey(poll, key string, data any) wire.Event {
	return s.add(wire.Event{Topic: poll + "." + key, Poll: poll, Key: key, AsOf: time.Now(), AgeMs: 1}, data)
}

func (s *stream) add(ev wire.Event, data any) wire.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	s.versions[ev.Topic]++
	ev.Seq, ev.Version, ev.Breaker = s.seq, s.versions[ev.Topic], event.Closed
	ev.ChangedAt = ev.AsOf
	if data == nil {
		ev.Deleted = true
		delete(s.last, ev.Topic)
	} else {
		ev.Data, _ = json.Marshal(data)
		s.last[ev.Topic] = ev
	}
	s.events = append(s.events, ev)
	ev.Phase = wire.Live
	for _, g := range s.gateways {
		g.cast(&wire.ServerFrame{Event: &ev}, func(p string) bool { return topic.Match(p, ev.Topic) })
	}
	return ev
}

func (s *stream) fresh(f event.Freshness) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.CheckedAt.IsZero() {
		f.CheckedAt = time.Now()
	}
	if f.Breaker == "" {
		f.Breaker = event.Closed
	}
	s.polls[f.Poll] = f
	for _, g := range s.gateways {
		g.cast(&wire.ServerFrame{Fresh: &f}, func(p string) bool { return topic.CoversPoll(p, f.Poll) })
	}
}

// ok returns the record of a poll that is fresh.
func ok(poll string) event.Freshness {
	return event.Freshness{Poll: poll, AsOf: time.Now(), IntervalMs: 20_000, MaxAgeMs: 60_000}
}

// gateway plays the server's side of the protocol on real sockets.
type gateway struct {
	t      *testing.T
	name   string
	stream *stream
	srv    *http.Server
	addr   string
	ping   time.Duration // 0: 30 s

	mu    sync.Mutex
	conns map[*peer]bool
	total int
	// handshake may answer the request itself; false: done.
	handshake func(http.ResponseWriter, *http.Request) bool
	// intercept may handle a frame itself; true: done.
	intercept func(*peer, *wire.ClientFrame) bool
	frames    []wire.ClientFrame
	wg        sync.WaitGroup
}

// peer is one connection of a gateway.
type peer struct {
	g    *gateway
	conn *websocket.Conn
	mu   sync.Mutex // of writes
	subs []string
}

func startGateway(t *testing.T, s *stream) *gateway {
	t.Helper()
	return startGatewayAt(t, s, "127.0.0.1:0")
}

func startGatewayAt(t *testing.T, s *stream, addr string) *gateway {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return serveGateway(t, s, ln)
}

func serveGateway(t *testing.T, s *stream, ln net.Listener) *gateway {
	g := &gateway{t: t, stream: s, addr: ln.Addr().String(), conns: map[*peer]bool{}, ping: 30 * time.Second}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/ws", g.serve)
	g.srv = &http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0)}
	s.mu.Lock()
	s.gateways = append(s.gateways, g)
	g.name = fmt.Sprintf("gw-%d", len(s.gateways))
	s.mu.Unlock()
	g.wg.Go(func() { _ = g.srv.Serve(ln) })
	t.Cleanup(g.kill)
	return g
}

func (g *gateway) url() string { return "ws://" + g.addr + "/v1/ws" }

// kill ends the gateway and its connections without closing frames.
func (g *gateway) kill() {
	g.srv.Close()
	g.each(func(p *peer) { p.conn.NetConn().Close() })
	g.wg.Wait()
	g.stream.mu.Lock()
	defer g.stream.mu.Unlock()
	g.stream.gateways = slices.DeleteFunc(g.stream.gateways, func(o *gateway) bool { return o == g })
}

func (g *gateway) each(f func(*peer)) {
	g.mu.Lock()
	peers := slices.Collect(maps.Keys(g.conns))
	g.mu.Unlock()
	for _, p := range peers {
		f(p)
	}
}

// drop breaks every connection. The gateway goes on.
func (g *gateway) drop() { g.each(func(p *peer) { p.conn.NetConn().Close() }) }

// hangUp closes every connection with a code.
func (g *gateway) hangUp(code wire.CloseCode) { g.each(func(p *peer) { p.close(code) }) }

func (g *gateway) send(f *wire.ServerFrame) { g.each(func(p *peer) { p.send(f) }) }

func (g *gateway) connections() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns)
}

// accepted returns the number of connections so far.
func (g *gateway) accepted() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.total
}

// subscribes returns the subscribe frames so far.
func (g *gateway) subscribes() []wire.Subscribe {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []wire.Subscribe
	for _, f := range g.frames {
		if f.Subscribe != nil {
			out = append(out, *f.Subscribe)
		}
	}
	return out
}

func (g *gateway) hooks(handshake func(http.ResponseWriter, *http.Request) bool,
	intercept func(*peer, *wire.ClientFrame) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.handshake, g.intercept = handshake, intercept
}

// cast sends a frame to the peers that have a pattern for it. The stream's mutex
// is held, so that the frame cannot overtake a snapshot.
func (g *gateway) cast(f *wire.ServerFrame, match func(pattern string) bool) {
	g.each(func(p *peer) {
		if slices.ContainsFunc(p.subs, match) {
			p.send(f)
		}
	})
}

func (g *gateway) serve(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	handshake := g.handshake
	g.mu.Unlock()
	if handshake != nil && !handshake(w, r) {
		return
	}
	up := websocket.Upgrader{Subprotocols: []string{wire.ProtocolJSON, wire.ProtocolProto}}
	conn, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	p := &peer{g: g, conn: conn}
	g.stream.mu.Lock()
	epoch := g.stream.epoch
	g.stream.mu.Unlock()
	g.mu.Lock()
	g.total++
	p.send(&wire.ServerFrame{Welcome: &wire.Welcome{
		Connection: fmt.Sprint(g.total), Gateway: g.name, Epoch: epoch, PingIntervalMs: g.ping.Milliseconds(),
	}})
	g.conns[p] = true
	g.wg.Add(1)
	g.mu.Unlock()
	defer g.wg.Done()
	defer func() {
		conn.Close()
		g.mu.Lock()
		delete(g.conns, p)
		g.mu.Unlock()
	}()
	for {
		_, b, err := conn.ReadMessage()
		if err != nil {
			return
		}
		var f wire.ClientFrame
		if err := json.Unmarshal(b, &f); err != nil {
			g.t.Errorf("client sent %q: %v", b, err)
			return
		}
		g.mu.Lock()
		g.frames = append(g.frames, f)
		intercept := g.intercept
		g.mu.Unlock()
		if intercept == nil || !intercept(p, &f) {
			p.handle(&f)
		}
	}
}

func (p *peer) handle(f *wire.ClientFrame) {
	switch {
	case f.Subscribe != nil:
		p.subscribe(f.ID, f.Subscribe)
	case f.Unsubscribe != nil:
		s := p.g.stream
		s.mu.Lock()
		defer s.mu.Unlock()
		p.subs = slices.DeleteFunc(p.subs, func(t string) bool { return slices.Contains(f.Unsubscribe.Topics, t) })
		p.send(&wire.ServerFrame{ID: f.ID, Unsubscribed: &wire.Unsubscribed{Topics: f.Unsubscribe.Topics}})
	case f.Ping != nil:
		p.send(&wire.ServerFrame{ID: f.ID, Pong: &wire.Pong{}})
	}
}

func (p *peer) subscribe(id uint64, f *wire.Subscribe) {
	s := p.g.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	before := p.subs
	p.subs = append(slices.Clip(p.subs), f.Topics...)
	among := func(patterns []string, t string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool { return topic.Match(p, t) })
	}
	match := func(t string) bool { return among(f.Topics, t) && !among(before, t) }
	a := &wire.Subscribed{Topics: f.Topics, Seq: s.seq, Epoch: s.epoch}
	if slices.Equal(topic.Canonical(before), topic.Canonical(p.subs)) {
		p.send(&wire.ServerFrame{ID: id, Subscribed: a})
		return
	}
	if f.Since != nil {
		switch {
		case f.Since.Epoch != s.epoch:
			a.Reason = wire.NotResumedEpoch
		case f.Since.Seq < s.trimmed:
			a.Reason = wire.NotResumedTrimmed
		default:
			a.Resumed = true
		}
	}
	p.send(&wire.ServerFrame{ID: id, Subscribed: a})
	if a.Resumed {
		for _, ev := range s.events {
			if ev.Seq > f.Since.Seq && match(ev.Topic) {
				ev.Phase = wire.Replay
				p.send(&wire.ServerFrame{Event: &ev})
			}
		}
	} else {
		for _, t := range slices.Sorted(maps.Keys(s.last)) {
			if ev := s.last[t]; match(t) {
				ev.Phase = wire.Snapshot
				ev.AgeMs = time.Since(ev.AsOf).Milliseconds()
				p.send(&wire.ServerFrame{Event: &ev})
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.polls)) {
		covered := slices.ContainsFunc(f.Topics, func(p string) bool { return topic.CoversPoll(p, name) })
		if fr := s.polls[name]; covered {
			p.send(&wire.ServerFrame{Fresh: &fr})
		}
	}
}

func (p *peer) send(f *wire.ServerFrame) {
	b, err := json.Marshal(f)
	if err != nil {
		panic(err)
	}
	p.raw(websocket.TextMessage, b)
}

// raw sends a message, and closes with 4002 when the client does not take it.
func (p *peer) raw(typ int, b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
	if err := p.conn.WriteMessage(typ, b); err != nil {
		p.conn.Close()
	}
}

func (p *peer) close(code wire.CloseCode) {
	msg := websocket.FormatCloseMessage(int(code), code.String())
	_ = p.conn.WriteControl(websocket.CloseMessage, msg, time.Now().Add(time.Second))
}

// selfSigned makes a certificate for 127.0.0.1 and a pool that trusts it.
func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}
