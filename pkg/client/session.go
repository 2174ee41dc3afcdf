package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pollcast/pollcast/pkg/wire"
)

const (
	dialTimeout  = 10 * time.Second // TCP, TLS, handshake and welcome together
	tokenTimeout = 30 * time.Second
	writeTimeout = 10 * time.Second
	linger       = 500 * time.Millisecond // for the gateway's answer to a close
	// silenceMargin is added to two ping intervals. A gateway that is silent for
	// longer is lost.
	silenceMargin       = 10 * time.Second
	defaultPingInterval = 30 * time.Second
	maxPingInterval     = 10 * time.Minute
)

// session is one connection to a gateway after its welcome. One goroutine reads
// from it, the loop writes to it.
type session struct {
	conn    *websocket.Conn
	welcome wire.Welcome
	since   time.Time
	took    time.Duration // the time to connect
	silence time.Duration
	in      chan received
	quit    chan struct{} // closed when the loop wants no more frames
}

// received is a frame, or the error that ended the connection.
type received struct {
	frame *wire.ServerFrame
	at    time.Time
	err   error
}

// errRetryAfter is a failed handshake whose answer holds the time to wait.
type errRetryAfter struct {
	error
	after      time.Duration
	overloaded bool
}

func (e *errRetryAfter) Unwrap() error { return e.error }

// dial connects and waits for the welcome. The reader belongs to wg and ends
// after close or an error.
func (c *Client) dial(ctx context.Context, wg *sync.WaitGroup) (*session, error) {
	header := c.opts.HTTPHeader.Clone()
	if c.opts.Token != nil {
		tctx, cancel := context.WithTimeout(ctx, tokenTimeout)
		token, err := c.opts.Token(tctx)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("get token: %w", err)
		}
		if token != "" {
			header.Set("Authorization", "Bearer "+token)
		}
	}
	start := time.Now()
	ctx, cancel := context.WithDeadline(ctx, start.Add(dialTimeout))
	defer cancel()

	g := &guard{ctx: ctx}
	conn, resp, err := c.dialer(g).DialContext(ctx, c.opts.URL, header)
	if err != nil {
		if ne, ok := errors.AsType[net.Error](err); errors.Is(ctx.Err(), context.DeadlineExceeded) || ok && ne.Timeout() {
			return nil, fmt.Errorf("connect to gateway: no answer within %v", dialTimeout)
		}
		return nil, handshakeError(err, resp)
	}
	s := &session{
		conn: conn, took: time.Since(start), silence: 2*defaultPingInterval + silenceMargin,
		in: make(chan received), quit: make(chan struct{}),
	}
	err = s.greet(ctx, c.opts.MaxMessage)
	if err == nil && !g.release() {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	s.since = time.Now()
	wg.Go(s.read)
	return s, nil
}

func (c *Client) dialer(g *guard) *websocket.Dialer {
	open := c.opts.DialContext
	if open == nil {
		open = (&net.Dialer{}).DialContext
	}
	return &websocket.Dialer{
		Proxy:            http.ProxyFromEnvironment,
		TLSClientConfig:  c.opts.TLSConfig,
		HandshakeTimeout: dialTimeout,
		Subprotocols:     []string{wire.ProtocolJSON},
		ReadBufferSize:   16 << 10,
		WriteBufferSize:  1 << 10,
		NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := open(ctx, network, addr)
			if err == nil {
				g.watch(nc)
			}
			return nc, err
		},
	}
}

// guard closes connections when its context ends, until release: gorilla's
// handshake obeys a deadline but does not notice a cancel.
type guard struct {
	ctx   context.Context
	stops []func() bool
}

func (g *guard) watch(nc net.Conn) {
	g.stops = append(g.stops, context.AfterFunc(g.ctx, func() { nc.Close() }))
}

// release ends the guard and reports whether the connections are still open.
func (g *guard) release() bool {
	ok := true
	for _, stop := range g.stops {
		ok = stop() && ok
	}
	return ok
}

// greet reads up to the welcome.
func (s *session) greet(ctx context.Context, maxMessage int64) error {
	if p := s.conn.Subprotocol(); p != "" && p != wire.ProtocolJSON {
		return fmt.Errorf("gateway speaks subprotocol %q, not %q", p, wire.ProtocolJSON)
	}
	s.conn.SetReadLimit(maxMessage)
	s.conn.SetPingHandler(s.pong)
	for s.welcome == (wire.Welcome{}) {
		deadline, _ := ctx.Deadline()
		s.conn.SetReadDeadline(deadline)
		f, err := s.next()
		if err != nil {
			return fmt.Errorf("wait for the gateway's welcome: %w", err)
		}
		switch {
		case f.Welcome != nil:
			s.welcome = *f.Welcome
			if s.welcome == (wire.Welcome{}) {
				return errors.New("gateway's welcome is empty")
			}
		case f.Error != nil:
			return fmt.Errorf("gateway answers %s: %s", f.Error.Code, f.Error.Message)
		case known(f):
			return errors.New("gateway's first frame is no welcome")
		}
	}
	interval := time.Duration(s.welcome.PingIntervalMs) * time.Millisecond
	if s.welcome.PingIntervalMs <= 0 || s.welcome.PingIntervalMs > maxPingInterval.Milliseconds() {
		interval = defaultPingInterval
	}
	s.silence = 2*interval + silenceMargin
	return nil
}

// read passes on frames until the connection ends. If the loop closed it, read
// then waits a little for the gateway's answer.
func (s *session) read() {
	defer s.conn.Close()
	for {
		s.extend()
		f, err := s.next()
		select {
		case <-s.quit:
			if err != nil {
				return
			}
			continue
		default:
		}
		select {
		case s.in <- received{frame: f, at: time.Now(), err: err}:
		case <-s.quit:
		}
		if err != nil {
			return
		}
	}
}

// next reads one frame. A message that is no frame ends the connection: it may
// have been an event, which resuming brings again.
func (s *session) next() (*wire.ServerFrame, error) {
	typ, b, err := s.conn.ReadMessage()
	if err != nil {
		return nil, readError(err, s.silence)
	}
	if typ != websocket.TextMessage {
		return nil, errors.New("gateway sent a binary message, which pollcast.v1.json has none of")
	}
	var f wire.ServerFrame
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("gateway sent %d bytes that are no frame: %w", len(b), err)
	}
	if f.Event != nil && (f.Event.Topic == "" || f.Event.Seq == 0) {
		return nil, errors.New("gateway sent an event without topic or seq")
	}
	if f.Fresh != nil && f.Fresh.Poll == "" {
		return nil, errors.New("gateway sent freshness without a poll")
	}
	return &f, nil
}

// pong answers a ping.
func (s *session) pong(data string) error {
	s.extend()
	err := s.conn.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(writeTimeout))
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return nil // the connection is full; the gateway decides what to do
	}
	if errors.Is(err, websocket.ErrCloseSent) {
		return nil
	}
	return err
}

// extend sets the deadline for the gateway's next frame. Only the reader calls
// it.
func (s *session) extend() {
	d := s.silence
	select {
	case <-s.quit:
		d = linger
	default:
	}
	s.conn.SetReadDeadline(time.Now().Add(d))
	select {
	case <-s.quit: // close was called meanwhile: its short deadline holds
		s.conn.SetReadDeadline(time.Now().Add(linger))
	default:
	}
}

// write sends a frame. Only the loop calls it.
func (s *session) write(f *wire.ClientFrame) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(f); err != nil {
		return fmt.Errorf("encode frame: %w", err)
	}
	s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err := s.conn.WriteMessage(websocket.TextMessage, bytes.TrimSpace(b.Bytes())); err != nil {
		return fmt.Errorf("write to gateway: %w", err)
	}
	return nil
}

// close sends a close frame. The reader closes the connection when the gateway
// has answered or the linger time is over.
func (s *session) close(wg *sync.WaitGroup) {
	close(s.quit)
	s.conn.SetReadDeadline(time.Now().Add(linger))
	wg.Go(func() {
		msg := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
		if err := s.conn.WriteControl(websocket.CloseMessage, msg, time.Now().Add(linger)); err != nil {
			s.conn.Close()
		}
	})
}

// drop closes a broken connection.
func (s *session) drop() {
	close(s.quit)
	s.conn.Close()
}

func known(f *wire.ServerFrame) bool {
	return f.Subscribed != nil || f.Unsubscribed != nil || f.Pong != nil || f.Authenticated != nil ||
		f.Event != nil || f.Fresh != nil || f.Breaker != nil || f.GoAway != nil
}

func readError(err error, silence time.Duration) error {
	if ce, ok := errors.AsType[*websocket.CloseError](err); ok && ce.Code != websocket.CloseAbnormalClosure {
		return &CloseError{Code: wire.CloseCode(ce.Code), Reason: ce.Text}
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return fmt.Errorf("gateway was silent for %v", silence)
	}
	if websocket.IsCloseError(err, websocket.CloseAbnormalClosure) {
		return errors.New("gateway went away without a word")
	}
	return fmt.Errorf("read from gateway: %w", err)
}

// handshakeError returns the error that an HTTP answer in place of a WebSocket
// means.
func handshakeError(err error, resp *http.Response) error {
	if !errors.Is(err, websocket.ErrBadHandshake) || resp == nil {
		return fmt.Errorf("connect to gateway: %w", err)
	}
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		return &CloseError{Code: wire.CloseUnauthorized, Reason: "HTTP " + resp.Status}
	case http.StatusForbidden:
		return &CloseError{Code: wire.CloseForbidden, Reason: "HTTP " + resp.Status}
	}
	err = fmt.Errorf("connect to gateway: it answered HTTP %s, not a WebSocket", resp.Status)
	e := &errRetryAfter{error: err}
	e.overloaded = resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable
	if n, perr := strconv.Atoi(resp.Header.Get("Retry-After")); perr == nil && n > 0 {
		e.after = min(time.Duration(min(n, 3600))*time.Second, maxHint)
	}
	return e
}
