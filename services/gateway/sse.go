package gateway

import (
	"errors"
	"net/http"
	"time"

	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/conn"
	"github.com/pollcast/pollcast/services/gateway/frame"
	"github.com/pollcast/pollcast/services/gateway/hub"
)

// maxSSEInput is how many bytes a client of server-sent events may send: it has
// nothing to send.
const maxSSEInput = 64 << 10

// serveSSE answers GET /v1/events?topics=.
func (s *server) serveSSE(w http.ResponseWriter, r *http.Request) {
	if !s.admit(w, r) {
		return
	}
	refuse := func(status int, text string) {
		s.metrics.refused.WithLabelValues("handshake").Inc()
		http.Error(w, text, status)
	}
	topics, err := topicsParam(r.URL.Query())
	if err == nil && len(topics) == 0 {
		err = errors.New("?topics= is missing; write ?topics=host.>")
	}
	if err != nil {
		refuse(http.StatusBadRequest, err.Error())
		return
	}
	sub := wire.Subscribe{Topics: topics}
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		since, err := frame.ParseEventID(id)
		if err != nil {
			refuse(http.StatusBadRequest, err.Error())
			return
		}
		sub.Since = &since
	}
	if werr := s.checkSubscribe(&session{Conn: new(conn.Conn)}, &sub); werr != nil {
		refuse(http.StatusBadRequest, werr.Message)
		return
	}
	if reason, why := s.let(r.Context()); reason != "" {
		s.turnAway(w, reason, why)
		return
	}
	nc, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil || buffered.Reader.Buffered() > 0 {
		s.conns.release()
		if err == nil {
			nc.Close() // a pipelined request: nothing that speaks SSE does that
			return
		}
		refuse(http.StatusHTTPVersionNotSupported, "server-sent events need HTTP/1.1 here")
		return
	}
	_ = nc.SetDeadline(time.Time{}) // the server's own; a dead socket shows in the first write
	head := "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n" +
		"X-Accel-Buffering: no\r\nConnection: close\r\n"
	if origin := r.Header.Get("Origin"); origin != "" {
		head += "Access-Control-Allow-Origin: " + origin + "\r\nVary: Origin\r\n"
	}
	c := s.newSession(nc, hub.SSE)
	c.Send([]byte(head + "\r\n"))
	s.begin(c, r, &sub)
	go s.readSSE(c) // drain waits for it, through the registry
}

// readSSE waits for the end of a connection whose client has nothing to say.
func (s *server) readSSE(c *session) {
	defer s.forget(c)
	buf := make([]byte, 64)
	for heard := 0; ; {
		n, err := c.Socket.Read(buf)
		if err != nil {
			return
		}
		if heard += n; heard > maxSSEInput {
			c.Close(wire.CloseProtocolError, "a client of server-sent events sends nothing")
			c.seeOff()
			return
		}
	}
}
