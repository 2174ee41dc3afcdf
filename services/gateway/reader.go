package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
	"github.com/pollcast/pollcast/pkg/wire"
	"golang.org/x/time/rate"
)

// maxBadFrames is how many frames that are none a client may send before its
// connection is closed with 4502.
const maxBadFrames = 20

// farewellBytes bounds what is read and thrown away of a client that broke the
// rules, so that the close frame reaches it before a reset does.
const farewellBytes = 4 << 20

// read handles what the client sends, until the connection ends.
func (s *server) read(c *conn) {
	defer s.forget(c)
	c.ws.SetReadLimit(int64(s.cfg.MaxMessage))
	alive := func(string) error {
		c.heard.Store(time.Now().UnixNano())
		return nil
	}
	limit := rate.NewLimiter(rate.Limit(s.cfg.FrameRate), 2*s.cfg.FrameRate)
	bad := 0
	// tooMany reports whether a frame comes too fast to be looked at.
	tooMany := func(now time.Time) bool {
		if limit.AllowN(now, 1) {
			return false
		}
		s.metrics.frames.WithLabelValues("rate_limited").Inc()
		if bad++; bad > maxBadFrames {
			c.close(wire.CloseBadFrame, "too many frames")
		}
		return true
	}
	c.ws.SetPongHandler(func(payload string) error {
		tooMany(time.Now()) // an answer that nobody asked for costs as much as a frame
		return alive(payload)
	})
	c.ws.SetPingHandler(func(payload string) error {
		if !tooMany(time.Now()) {
			c.send(controlFrame(opPong, []byte(payload)))
		}
		return alive(payload)
	})
	c.ws.SetCloseHandler(func(code int, text string) error {
		// RFC 6455, section 5.5.1: echo the status code.
		if code == websocket.CloseNoStatusReceived {
			code = int(wire.CloseNormal)
		}
		c.closeByClient(wire.CloseCode(code), text)
		return nil
	})
	for {
		kind, body, err := c.message()
		if err != nil {
			if errors.Is(err, errUnfinished) {
				s.metrics.frames.WithLabelValues("unfinished").Inc()
				c.close(wire.ClosePingTimeout, fmt.Sprintf("a message was not finished within %v", messageWait))
				c.seeOff()
			} else {
				c.farewell(err)
			}
			return
		}
		now := time.Now()
		c.heard.Store(now.UnixNano())
		if c.isClosing() {
			continue
		}
		if tooMany(now) {
			s.answer(c, 0, &wire.Error{
				Code: wire.CodeRateLimited, Retryable: true,
				Message: fmt.Sprintf("more than %d frames per second; the frame was not read", s.cfg.FrameRate),
			})
			continue
		}
		if kind == websocket.TextMessage && !utf8.Valid(body) {
			c.close(wire.CloseInvalidPayload, "text is not UTF-8")
			continue
		}
		id, werr := s.handle(c, kind, body)
		if werr == nil {
			s.metrics.frames.WithLabelValues("ok").Inc()
			continue
		}
		s.metrics.frames.WithLabelValues(string(werr.Code)).Inc()
		s.answer(c, id, werr)
		if werr.Code == wire.CodeBadFrame {
			if bad++; bad > maxBadFrames {
				c.close(wire.CloseBadFrame, "")
			}
		}
	}
}

func (s *server) answer(c *conn, id uint64, err *wire.Error) {
	c.say(&wire.ServerFrame{ID: id, Error: err})
}

// handle does what one frame asks for.
func (s *server) handle(c *conn, kind int, body []byte) (id uint64, werr *wire.Error) {
	f, werr := decodeClient(c.format, kind, body)
	if werr != nil {
		return f.ID, werr
	}
	switch {
	case f.Subscribe != nil:
		return f.ID, s.subscribe(c, f.ID, f.Subscribe)
	case f.Unsubscribe != nil:
		return f.ID, s.unsubscribe(c, f.ID, f.Unsubscribe)
	case f.Ping != nil:
		c.say(&wire.ServerFrame{ID: f.ID, Pong: &wire.Pong{}})
		return f.ID, nil
	default: // authenticate
		return f.ID, &wire.Error{Code: wire.CodeInvalid, Message: "this gateway asks for no token; leave authenticate out"}
	}
}

// clientKeys are the frames a client may send; a test holds them against
// wire.ClientFrame.
var clientKeys = []string{"subscribe", "unsubscribe", "ping", "authenticate"}

// decodeClient reads one client frame: an object with an optional id and
// exactly one known key. Unknown fields inside a known frame are ignored.
func decodeClient(fm format, kind int, body []byte) (f wire.ClientFrame, werr *wire.Error) {
	bad := func(code wire.ErrorCode, format string, args ...any) (wire.ClientFrame, *wire.Error) {
		return f, &wire.Error{Code: code, Message: fmt.Sprintf(format, args...), Retryable: code.Retryable()}
	}
	if fm == asProto {
		if kind != websocket.BinaryMessage {
			return bad(wire.CodeBadFrame, "a text message on a connection that speaks %s; send a binary ClientFrame", wire.ProtocolProto)
		}
		if err := f.UnmarshalProto(body); err != nil {
			return bad(wire.CodeBadFrame, "%v", err)
		}
		if f.Subscribe == nil && f.Unsubscribe == nil && f.Ping == nil && f.Authenticate == nil {
			return bad(wire.CodeUnknownFrame, "the frame has none of %s", strings.Join(clientKeys, ", "))
		}
		return f, nil
	}
	if kind != websocket.TextMessage {
		return bad(wire.CodeBadFrame, "a binary message on a connection that speaks %s; send JSON as text", wire.ProtocolJSON)
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(body, &keys); err != nil {
		return bad(wire.CodeBadFrame, "not a JSON object: %v", err)
	}
	if raw, ok := keys["id"]; ok {
		if err := json.Unmarshal(raw, &f.ID); err != nil {
			return bad(wire.CodeBadFrame, "id %s: use a whole number from 0 to 18446744073709551615", short(raw))
		}
	}
	known := 0
	unknown := ""
	for key := range keys {
		switch {
		case key == "id":
		case slices.Contains(clientKeys, key):
			known++
		case unknown == "" || key < unknown:
			unknown = key
		}
	}
	switch {
	case known == 0 && unknown != "":
		return bad(wire.CodeUnknownFrame, "frame %q is not known; known are %s", short([]byte(unknown)), strings.Join(clientKeys, ", "))
	case known != 1:
		return bad(wire.CodeBadFrame, "a frame has exactly one of %s; this one has %d", strings.Join(clientKeys, ", "), known)
	}
	if err := json.Unmarshal(body, &f); err != nil {
		id := f.ID
		f = wire.ClientFrame{ID: id}
		if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return bad(wire.CodeBadFrame, "field %q is a JSON %s, which it cannot be", te.Field, te.Value)
		}
		return bad(wire.CodeBadFrame, "%v", err)
	}
	if f.Subscribe == nil && f.Unsubscribe == nil && f.Ping == nil && f.Authenticate == nil {
		return bad(wire.CodeBadFrame, "the frame is null; write an object")
	}
	return f, nil
}

func short(b []byte) string {
	if len(b) > 40 {
		return string(bytes.ToValidUTF8(b[:40], nil)) + "…"
	}
	return string(b)
}

// closeByClient answers the client's close frame; it is the client's doing.
func (c *conn) closeByClient(code wire.CloseCode, text string) {
	c.mu.Lock()
	first := c.closing == nil
	c.mu.Unlock()
	if first {
		c.close(code, text)
		c.mu.Lock()
		c.code = 0
		c.mu.Unlock()
	}
}

// farewell ends a connection that can be read no more. Closing a socket with
// unread data resets it, and a reset overtakes a close frame on its way to the
// client, so what the client still sends is read and thrown away for a while.
func (c *conn) farewell(err error) {
	closing, handshake := errors.AsType[*websocket.CloseError](err)
	breach, broken := errors.AsType[frameError](err)
	switch {
	case handshake && closing.Code == websocket.CloseAbnormalClosure: // it ended within a frame
		return
	case handshake: // the closing one; the answer is on its way
	case errors.Is(err, websocket.ErrReadLimit):
		c.close(wire.CloseTooBig, "")
	case broken:
		c.close(wire.CloseProtocolError, string(breach))
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), isNetError(err):
		return
	default: // unless strictConn.Write has, in the library's words
		c.close(wire.CloseProtocolError, "")
	}
	c.seeOff()
}

// seeOff waits until a closing connection's client has seen why, or could have.
func (c *conn) seeOff() {
	_ = c.nc.SetReadDeadline(time.Now().Add(closeWait))
	_, _ = io.CopyN(io.Discard, c.nc, farewellBytes) // ends by EOF, deadline or bound: all the same
	c.mu.Lock()
	over := c.over
	c.mu.Unlock()
	select {
	case <-over:
	case <-time.After(closeWait):
	}
}

func isNetError(err error) bool {
	_, ok := errors.AsType[net.Error](err)
	return ok
}
