package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/hub"
	"github.com/pollcast/pollcast/services/gateway/ws"
)

// maxBadFrames is how many frames that are none a client may send before its
// connection is closed with 4502.
const maxBadFrames = 20

// read handles what the client sends, until the connection ends.
func (s *server) read(c *session) {
	defer s.forget(c)
	end := error(nil)
	err := c.receive(func(b []byte) bool {
		ended := false
		end = c.in.Feed(b, int(s.cfg.MaxMessage), func(op byte, body []byte) bool {
			ended = ended || !ws.IsControl(op)
			return s.hear(c, op, body)
		})
		c.hurry(ended)
		return end == nil && !c.in.Done()
	})
	switch {
	case end != nil:
		c.breach(end)
	case err == nil: // the client's close frame; the answer is on its way
	case isTimeout(err) && c.ClosingSince() == 0:
		s.metrics.frames.WithLabelValues("unfinished").Inc()
		c.Close(wire.ClosePingTimeout, fmt.Sprintf("a message was not finished within %v", messageWait))
	default:
		return // it has gone
	}
	c.seeOff()
}

// hear takes one message or control frame, and reports whether the client may
// go on.
func (s *server) hear(c *session, op byte, body []byte) bool {
	now := time.Now()
	c.Hear(now)
	switch op {
	case ws.CloseFrame:
		code, text, err := ws.ParseClose(body)
		if err != nil {
			c.breach(err)
		} else {
			c.CloseByClient(wire.CloseCode(code), text) // RFC 6455, section 5.5.1: echo the status code
		}
		return false
	case ws.Pong:
		s.tooMany(c, now) // an answer that nobody asked for costs as much as a frame
		return true
	case ws.Ping:
		if !s.tooMany(c, now) {
			c.Send(ws.Control(ws.Pong, body))
		}
		return true
	}
	if c.IsClosing() {
		return true
	}
	if s.tooMany(c, now) {
		s.answer(c, 0, &wire.Error{
			Code: wire.CodeRateLimited, Retryable: true,
			Message: fmt.Sprintf("more than %d frames per second; the frame was not read", s.cfg.FrameRate),
		})
		return true
	}
	if op == ws.Text && !utf8.Valid(body) {
		c.Close(wire.CloseInvalidPayload, "text is not UTF-8")
		return true
	}
	id, werr := s.handle(c, int(op), body)
	if werr == nil {
		s.metrics.frames.WithLabelValues("ok").Inc()
		return true
	}
	s.metrics.frames.WithLabelValues(string(werr.Code)).Inc()
	s.answer(c, id, werr)
	if werr.Code == wire.CodeBadFrame {
		c.bad(maxBadFrames, "")
	}
	return true
}

// tooMany reports whether a frame comes too fast to be looked at.
func (s *server) tooMany(c *session, now time.Time) bool {
	if c.pace.allow(now, s.cfg.FrameRate) {
		return false
	}
	s.metrics.frames.WithLabelValues("rate_limited").Inc()
	c.bad(maxBadFrames, "too many frames")
	return true
}

// bad counts a frame that was none, of which a client may send so many.
func (c *session) bad(most uint8, why string) {
	if c.wrong++; c.wrong > most {
		c.wrong = most
		c.Close(wire.CloseBadFrame, why)
	}
}

func (s *server) answer(c *session, id uint64, err *wire.Error) {
	c.Say(&wire.ServerFrame{ID: id, Error: err})
}

// handle does what one frame asks for.
func (s *server) handle(c *session, kind int, body []byte) (id uint64, werr *wire.Error) {
	f, werr := decodeClient(c.Format.Plain(), kind, body)
	if werr != nil {
		return f.ID, werr
	}
	switch {
	case f.Subscribe != nil:
		return f.ID, s.subscribe(c, f.ID, f.Subscribe)
	case f.Unsubscribe != nil:
		return f.ID, s.unsubscribe(c, f.ID, f.Unsubscribe)
	case f.Ping != nil:
		c.Say(&wire.ServerFrame{ID: f.ID, Pong: &wire.Pong{}})
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
func decodeClient(fm hub.Format, kind int, body []byte) (f wire.ClientFrame, werr *wire.Error) {
	bad := func(code wire.ErrorCode, format string, args ...any) (wire.ClientFrame, *wire.Error) {
		return f, &wire.Error{Code: code, Message: fmt.Sprintf(format, args...), Retryable: code.Retryable()}
	}
	if fm == hub.Proto {
		if kind != ws.Binary {
			return bad(wire.CodeBadFrame, "a text message on a connection that speaks %s; send a binary ClientFrame",
				wire.ProtocolProto)
		}
		if err := f.UnmarshalProto(body); err != nil {
			return bad(wire.CodeBadFrame, "%v", err)
		}
		if f.Subscribe == nil && f.Unsubscribe == nil && f.Ping == nil && f.Authenticate == nil {
			return bad(wire.CodeUnknownFrame, "the frame has none of %s", strings.Join(clientKeys, ", "))
		}
		return f, nil
	}
	if kind != ws.Text {
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
		return bad(wire.CodeUnknownFrame, "frame %q is not known; known are %s",
			short([]byte(unknown)), strings.Join(clientKeys, ", "))
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

// breach closes a connection whose client broke the rules. Closing a socket
// with unread data resets it, and a reset overtakes a close frame on its way to
// the client, so what the client still sends is read and thrown away for a while.
func (c *session) breach(err error) {
	if errors.Is(err, ws.ErrTooBig) {
		c.Close(wire.CloseTooBig, "")
		return
	}
	if errors.Is(err, ws.ErrInflate) {
		c.Close(wire.CloseInvalidPayload, ws.ErrInflate.Error())
		return
	}
	text := ""
	if e, ok := errors.AsType[ws.ProtocolError](err); ok {
		text = string(e)
	}
	c.Close(wire.CloseProtocolError, text)
}
