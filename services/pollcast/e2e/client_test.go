package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// client is a WebSocket client that was written from the protocol's description:
// it shares no code with Pollcast. In every test it checks every frame against
// the protocol (rules).
type client struct {
	t  testing.TB
	ws *websocket.Conn

	mu      sync.Mutex
	frames  []frame
	next    int // the first frame that await has not checked
	arrived chan struct{}
	closed  error // set when the connection has ended
	gone    chan struct{}
	rules   rules
}

// frame is a frame from the gateway.
type frame struct {
	ID         uint64
	Welcome    *struct{ Connection, Epoch string }
	Subscribed *struct {
		Topics []string
		Seq    uint64
	}
	Unsubscribed *struct{ Topics []string }
	Pong         *struct{}
	Event        *eventFrame
	Fresh        *freshFrame
	Breaker      *breakerFrame
	Error        *struct {
		Code, Message string
		Retryable     bool
	}
	GoAway *struct{ Reason string }

	at  time.Time
	raw string
}

type eventFrame struct {
	Topic, Poll, Phase, Reason, Breaker string
	Seq, Version                        uint64
	ChangedAt, AsOf                     time.Time
	AgeMs                               int64
	Stale, Reorganised                  bool
	Position                            *int
	Data                                json.RawMessage
}

type freshFrame struct {
	Poll, Reason, Detail, Breaker string
	AsOf, NextProbeAt             time.Time
	Stale                         bool
	ConsecutiveFailures           int
	MaxAgeMs                      int64
}

type breakerFrame struct {
	Source, From, To, Cause string
	Failures                int
	NextProbeAt             time.Time
}

// dial connects, and fails the test if that fails. query follows the address,
// such as "/v1/ws?topics=host.>".
func dial(t testing.TB, addr, query string) *client {
	t.Helper()
	c, err := tryDial(t, addr, query)
	if err != nil {
		t.Fatalf("connect to %s%s: %v", addr, query, err)
	}
	return c
}

func tryDial(t testing.TB, addr, query string) (*client, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	ws, res, err := websocket.Dial(ctx, "ws://"+addr+query, &websocket.DialOptions{HTTPClient: web})
	if res != nil && res.Body != nil {
		res.Body.Close()
	}
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(16 << 20)
	c := &client{t: t, ws: ws, arrived: make(chan struct{}), gone: make(chan struct{})}
	go c.read()
	t.Cleanup(func() {
		_ = ws.CloseNow() // fails if it is closed already
		<-c.gone
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, broken := range c.rules.broken {
			t.Errorf("the protocol promises otherwise: %s", broken)
		}
		if t.Failed() {
			t.Logf("---- the client's last frames (ended: %v) ----\n%s", c.closed, c.last(12))
		}
	})
	return c, nil
}

// last returns the last n frames as text. The caller holds the mutex.
func (c *client) last(n int) string {
	text := ""
	for _, f := range c.frames[max(0, len(c.frames)-n):] {
		text += f.at.Format("05.000 ") + f.raw[:min(len(f.raw), 400)] + "\n"
	}
	return text
}

func (c *client) read() {
	defer close(c.gone)
	for {
		_, data, err := c.ws.Read(context.Background()) // ends with the connection
		f := frame{at: time.Now(), raw: string(data)}
		c.mu.Lock()
		if err == nil {
			if bad := json.Unmarshal(data, &f); bad != nil {
				c.rules.report("%v: %s", bad, data)
			}
			c.rules.see(&f)
			c.frames = append(c.frames, f)
		} else {
			c.closed = err
		}
		close(c.arrived)
		c.arrived = make(chan struct{})
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// await waits for a frame. It checks each frame once: the next await continues
// after the frame that this one returns.
func (c *client) await(what string, match func(frame) bool) frame {
	c.t.Helper()
	f, err := c.find(patience, match)
	if err != nil {
		c.t.Fatalf("%s: %v", what, err)
	}
	return f
}

func (c *client) find(within time.Duration, match func(frame) bool) (frame, error) {
	timeout := time.After(within)
	for {
		c.mu.Lock()
		for c.next < len(c.frames) {
			f := c.frames[c.next]
			c.next++
			if match(f) {
				c.mu.Unlock()
				return f, nil
			}
		}
		arrived, closed := c.arrived, c.closed
		c.mu.Unlock()
		if closed != nil {
			return frame{}, fmt.Errorf("the connection ended: %w", closed)
		}
		select {
		case <-arrived:
		case <-timeout:
			return frame{}, fmt.Errorf("not within %v", within)
		}
	}
}

// seen returns all frames so far that match. It does not depend on await.
func (c *client) seen(match func(frame) bool) []frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []frame
	for _, f := range c.frames {
		if match(f) {
			out = append(out, f)
		}
	}
	return out
}

// skip makes await ignore the frames so far. It returns their number, for back.
func (c *client) skip() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next = len(c.frames)
	return c.next
}

// back makes await check again the frames from a number on, for frames that may
// come in any order.
func (c *client) back(to int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next = to
}

func (c *client) send(text string) { c.write(websocket.MessageText, []byte(text)) }

func (c *client) write(kind websocket.MessageType, data []byte) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
	defer cancel()
	if err := c.ws.Write(ctx, kind, data); err != nil && !c.over() {
		c.t.Errorf("write: %v", err)
	}
}

func (c *client) over() bool {
	select {
	case <-c.gone:
		return true
	case <-time.After(100 * time.Millisecond): // the reader may notice it a little later
		return false
	}
}

// closeCode waits until the gateway has closed the connection and returns the
// code; -1 if it ended without one.
func (c *client) closeCode() int {
	c.t.Helper()
	select {
	case <-c.gone:
	case <-time.After(patience):
		c.t.Fatalf("the connection was not closed within %v", patience)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return int(websocket.CloseStatus(c.closed))
}

// The predicates that tests wait for.

func anyEvent(topic string) func(frame) bool {
	return func(f frame) bool { return f.Event != nil && f.Event.Topic == topic }
}

func liveEvent(topic string) func(frame) bool {
	return func(f frame) bool { return f.Event != nil && f.Event.Topic == topic && f.Event.Phase == "live" }
}

func isFresh(poll string) func(frame) bool {
	return func(f frame) bool { return f.Fresh != nil && f.Fresh.Poll == poll && !f.Fresh.Stale }
}

func isStale(poll string, reasons ...string) func(frame) bool {
	return func(f frame) bool {
		if f.Fresh == nil || f.Fresh.Poll != poll || !f.Fresh.Stale {
			return false
		}
		for _, r := range reasons {
			if f.Fresh.Reason == r {
				return true
			}
		}
		return len(reasons) == 0
	}
}

func breakerTo(source, state string) func(frame) bool {
	return func(f frame) bool { return f.Breaker != nil && f.Breaker.Source == source && f.Breaker.To == state }
}

// httpStatus returns the status of a refused upgrade.
func httpStatus(addr, query string, header http.Header) (int, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	ws, res, err := websocket.Dial(ctx, "ws://"+addr+query, &websocket.DialOptions{HTTPClient: web, HTTPHeader: header})
	if err == nil {
		_ = ws.CloseNow() // only whether it exists matters
		return http.StatusSwitchingProtocols, "", nil
	}
	if res == nil {
		return 0, "", errors.Join(errors.New("no answer"), err)
	}
	defer res.Body.Close()
	text := make([]byte, 1024) // the library keeps so much
	n, _ := res.Body.Read(text)
	return res.StatusCode, string(text[:n]), nil
}
