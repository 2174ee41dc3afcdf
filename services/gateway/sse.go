package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/hub"
)

// Server-sent events (WHATWG HTML, section 9.2) carry the frames of the JSON
// subprotocol, each as one event named after its key, to a client that only
// reads. An event's id is <epoch>:<seq>, so that the browser's Last-Event-ID
// resumes where it was. The connection is one of the engine's: the answer is
// written to the socket as it is, and ends with it.

// sseRetry is how long a browser waits before it connects again.
const sseRetry = 2 * time.Second

var sseHeartbeat = []byte(":\n\n")

// appendSSE appends a frame, of which b is the JSON, as one event.
func appendSSE(dst []byte, f *wire.ServerFrame, b []byte) []byte {
	name := ""
	switch {
	case f.Event != nil:
		name = "event"
		dst = fmt.Appendf(dst, "id: %s:%d\n", f.Event.Epoch, f.Event.Seq)
	case f.Fresh != nil:
		name = "fresh"
	case f.Breaker != nil:
		name = "breaker"
	case f.Welcome != nil:
		name = "welcome"
		dst = fmt.Appendf(dst, "retry: %d\n", sseRetry.Milliseconds())
	case f.Subscribed != nil:
		name = "subscribed"
	case f.GoAway != nil:
		name = "goaway"
	case f.Error != nil:
		name = "failure" // "error" is what a browser calls a lost connection
	}
	return fmt.Appendf(dst, "event: %s\ndata: %s\n\n", name, b) // JSON has no line breaks
}

// sseClose is what a client that cannot be sent a close frame is told.
func sseClose(code wire.CloseCode, text string) []byte {
	return fmt.Appendf(nil, "event: close\ndata: %s\n\n", marshal(struct {
		Code   wire.CloseCode `json:"code"`
		Reason string         `json:"reason"`
	}{code, text}))
}

func sseLen(b []byte) int { return bytes.Index(b, []byte("\n\n")) + 2 }

// sseSeq returns the sequence number of an event's id.
func sseSeq(b []byte) (uint64, bool) {
	rest, ok := bytes.CutPrefix(b, []byte("id: "))
	if !ok {
		return 0, false
	}
	id, _, _ := bytes.Cut(rest, []byte{'\n'})
	since, err := parseEventID(string(id))
	return since.Seq, err == nil
}

// parseEventID reads <epoch>:<seq>.
func parseEventID(id string) (wire.Since, error) {
	epoch, seq, ok := strings.Cut(id, ":")
	n, err := strconv.ParseUint(seq, 10, 64)
	if !ok || err != nil || epoch == "" || len(epoch) > 64 {
		return wire.Since{}, errors.New("Last-Event-ID is not an id that this gateway gives: <epoch>:<seq>")
	}
	return wire.Since{Epoch: epoch, Seq: n}, nil
}

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
		since, err := parseEventID(id)
		if err != nil {
			refuse(http.StatusBadRequest, err.Error())
			return
		}
		sub.Since = &since
	}
	if werr := s.checkSubscribe(&conn{gw: s}, &sub); werr != nil {
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
	head := "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\nConnection: close\r\n"
	if origin := r.Header.Get("Origin"); origin != "" {
		head += "Access-Control-Allow-Origin: " + origin + "\r\nVary: Origin\r\n"
	}
	c := s.newConn(nc, hub.SSE)
	c.send([]byte(head + "\r\n"))
	s.begin(c, r, &sub)
	go s.readSSE(c) // drain waits for it, through the registry
}

// readSSE waits for the end of a connection whose client has nothing to say.
func (s *server) readSSE(c *conn) {
	defer s.forget(c)
	buf := make([]byte, 64)
	for heard := 0; ; {
		n, err := c.nc.Read(buf)
		if err != nil {
			return
		}
		if heard += n; heard > maxControl {
			c.close(wire.CloseProtocolError, "a client of server-sent events says nothing")
			c.seeOff()
			return
		}
	}
}
