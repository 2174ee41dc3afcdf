package gateway

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/conn"
	"github.com/pollcast/pollcast/services/gateway/hub"
	"github.com/pollcast/pollcast/services/gateway/ws"
)

// protocols are the subprotocols, in order of preference.
var protocols = []string{wire.ProtocolJSON, wire.ProtocolProto}

func knownProtocol(p string) bool { return slices.Contains(protocols, p) }

// upgrade makes a WebSocket connection of a request and leaves the handler at
// once: staying would keep the request and its 8 KB of buffers for good.
func (s *server) upgrade() http.HandlerFunc {
	up := websocket.Upgrader{
		HandshakeTimeout: 5 * time.Second,
		ReadBufferSize:   256,
		WriteBufferSize:  512,
		WriteBufferPool:  new(sync.Pool),
		Subprotocols:     protocols,
		CheckOrigin:      s.originAllowed,
		Error: func(w http.ResponseWriter, _ *http.Request, status int, reason error) {
			s.metrics.refused.WithLabelValues("handshake").Inc()
			w.Header().Set("Sec-WebSocket-Version", "13") // RFC 6455, section 4.4
			http.Error(w, reason.Error(), status)
		},
	}
	return func(w http.ResponseWriter, r *http.Request) {
		if !websocket.IsWebSocketUpgrade(r) {
			w.Header().Set("Upgrade", "websocket")
			http.Error(w, "this is a WebSocket endpoint: connect with ws:// (or wss://), for example\n  websocat 'ws://"+
				r.Host+r.URL.Path+"?topics=>'", http.StatusUpgradeRequired)
			return
		}
		if !r.ProtoAtLeast(1, 1) { // RFC 6455, section 4.2.1
			s.metrics.refused.WithLabelValues("handshake").Inc()
			http.Error(w, "WebSocket needs HTTP/1.1; this request came as "+r.Proto+
				", perhaps from a proxy (proxy_http_version 1.1 in nginx)", http.StatusBadRequest)
			return
		}
		if !s.admit(w, r) {
			return
		}
		// RFC 6455, section 11.3.4: it may come in several lines.
		if h := "Sec-Websocket-Protocol"; len(r.Header[h]) > 1 {
			r.Header.Set(h, strings.Join(r.Header[h], ","))
		}
		topics, err := topicsParam(r.URL.Query())
		if err != nil {
			s.metrics.refused.WithLabelValues("handshake").Inc()
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if offered := websocket.Subprotocols(r); len(offered) > 0 && !slices.ContainsFunc(offered, knownProtocol) {
			s.metrics.refused.WithLabelValues("handshake").Inc()
			http.Error(w, fmt.Sprintf("none of the subprotocols %q is known here; offer %s, or none",
				offered, strings.Join(protocols, " or ")), http.StatusBadRequest)
			return
		}
		reason, why := s.let(r.Context())
		if reason == reasonQueue && r.Header.Get("Origin") == "" {
			s.turnAway(w, reason, why)
			return
		}
		// The library knows only the names of the extensions, so it sees what was
		// found acceptable.
		shake := up
		shake.EnableCompression = s.cfg.Compression && ws.OffersDeflate(r.Header.Values("Sec-WebSocket-Extensions"))
		if shake.EnableCompression {
			r.Header.Set("Sec-WebSocket-Extensions", "permessage-deflate")
		}
		ws, err := shake.Upgrade(w, r, nil)
		switch {
		case err != nil: // answered by Upgrade
			if reason == "" {
				s.conns.release()
			}
			return
		case reason != "":
			s.hangUp(ws, reason, why)
			return
		}
		s.accept(ws, r, topics, shake.EnableCompression)
	}
}

// hangUp closes a connection that there is no room for. A browser sees the
// code of a close frame, but not the status of a refused upgrade.
func (s *server) hangUp(ws *websocket.Conn, reason, why string) {
	s.metrics.refused.WithLabelValues(reason).Inc()
	msg := websocket.FormatCloseMessage(int(wire.CloseOverloaded), wire.RetryIn(why, s.retry(reason)))
	// The client is refused either way.
	_ = ws.WriteControl(websocket.CloseMessage, msg, time.Now().Add(time.Second))
	_ = ws.Close()
}

func (s *server) accept(ws *websocket.Conn, r *http.Request, topics []string, deflate bool) {
	fm := hub.JSON
	if ws.Subprotocol() == wire.ProtocolProto {
		fm = hub.Proto
	}
	if deflate {
		fm += hub.JSONDeflate - hub.JSON
	}
	c := s.newSession(ws.NetConn(), fm) // the library has done its part: shaking hands
	c.in.Deflate = deflate
	var sub *wire.Subscribe
	if len(topics) > 0 {
		sub = &wire.Subscribe{Topics: topics}
	}
	s.begin(c, r, sub)
	go s.read(c) // drain waits for it, through the registry
}

// newSession makes a connection of a socket.
func (s *server) newSession(nc net.Conn, fm hub.Format) *session {
	id := s.nextID.Add(1)
	w := s.writers[id%uint64(len(s.writers))]
	c := &session{Conn: conn.New(&s.host, id, fmt.Sprintf("%s-%d", s.name, id), nc, fm, w)}
	// The first ping comes at a random part of the interval, so that pings of
	// clients that came together do not stay together.
	c.pinged = c.Begun.UnixNano() - rand.Int64N(int64(s.cfg.PingInterval))
	return c
}

// begin welcomes a connection, for which there is a place, and subscribes it.
func (s *server) begin(c *session, r *http.Request, sub *wire.Subscribe) {
	s.conns.add(c)
	s.metrics.accepted.Inc()
	s.metrics.connections.Inc()
	s.log.Debug("connection accepted", "connection", c.Name, "from", r.RemoteAddr, "path", r.URL.Path)
	epoch, _, _ := s.stream()
	c.Say(&wire.ServerFrame{Welcome: &wire.Welcome{
		Connection: c.Name, Gateway: s.name, Epoch: epoch, PingIntervalMs: s.cfg.PingInterval.Milliseconds(),
	}})
	if sub != nil {
		if werr := s.subscribe(c, 0, sub); werr != nil {
			s.answer(c, 0, werr)
			if werr.Retryable { // it may know of no frames to ask again with
				s.metrics.refused.WithLabelValues("memory").Inc()
				c.Close(wire.CloseOverloaded, overloaded(werr.Message))
			}
		}
	}
	if s.drained.Load() { // drain may have looked before add
		c.Close(wire.CloseRestart, "")
	}
}
