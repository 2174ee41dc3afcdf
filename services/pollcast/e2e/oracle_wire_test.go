package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/coder/websocket"
	"github.com/pollcast/pollcast/pkg/wire/wirepb"
	"google.golang.org/protobuf/proto"
)

// This file has the three transports between a witness and a gateway, written
// from docs/protocol.md and, for binary frames, from proto/.

// received is the part of a frame that a witness reads.
type received struct {
	ID         uint64
	Welcome    *struct{ Gateway, Epoch string }
	Subscribed *struct {
		Topics        []string
		Seq           uint64
		Epoch, Reason string
		Resumed       bool
	}
	Unsubscribed *struct{ Topics []string }
	Pong         *struct{}
	Event        *struct {
		Topic, Poll, Phase, Reason string
		Seq, Version               uint64
		AsOf                       time.Time
		AgeMs                      int64
		Stale, Deleted             bool
		Data                       json.RawMessage
	}
	Fresh *struct {
		Poll, Reason string
		AsOf         time.Time
		Stale        bool
	}
	Error  *struct{ Code, Message string }
	GoAway *struct{ ReconnectAfterMs int64 }
}

// request is a frame of the client's.
type request struct {
	ID          uint64      `json:"id"`
	Subscribe   *subscribe  `json:"subscribe,omitempty"`
	Unsubscribe *topicNames `json:"unsubscribe,omitempty"`
	Ping        *struct{}   `json:"ping,omitempty"`
}

type topicNames struct {
	Topics []string `json:"topics"`
}

type subscribe struct {
	Topics   []string `json:"topics"`
	Delivery string   `json:"delivery,omitempty"`
	MaxHz    float64  `json:"maxHz,omitempty"`
	Since    *place   `json:"since,omitempty"`
}

// place is a position to resume from.
type place struct {
	Seq   uint64 `json:"seq"`
	Epoch string `json:"epoch"`
}

// transport is one connection.
type transport interface {
	// receive returns the next frame. An error ends the connection.
	receive() (received, error)
	say(request) error
	hangUp()
}

const (
	dialPatience = 3 * time.Second
	// silence is how long a gateway may send nothing before a witness takes it
	// for frozen. Polls are renewed more often.
	silence = 6 * time.Second
)

// netDial makes connections. With small, sockets have small buffers, which fill
// soon.
func netDial(small bool) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if t, ok := nc.(*net.TCPConn); ok && small {
			_ = t.SetReadBuffer(4096) // a weaker test if it fails
		}
		return nc, err
	}
}

type wsTransport struct {
	ws     *websocket.Conn
	binary bool
	http   *http.Transport
}

func dialWS(ctx context.Context, addr string, binary, small bool) (transport, error) {
	tr := &http.Transport{DisableKeepAlives: true, DialContext: netDial(small)}
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	protocol := "pollcast.v1.json"
	if binary {
		protocol = "pollcast.v1.proto"
	}
	ws, res, err := websocket.Dial(ctx, "ws://"+addr+"/v1/ws",
		&websocket.DialOptions{HTTPClient: &http.Client{Transport: tr}, Subprotocols: []string{protocol}})
	if res != nil && res.Body != nil {
		res.Body.Close()
	}
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(16 << 20)
	return &wsTransport{ws, binary, tr}, nil
}

func (l *wsTransport) receive() (h received, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), silence)
	defer cancel()
	_, data, err := l.ws.Read(ctx)
	if err != nil {
		return h, err
	}
	if l.binary {
		return receiveProto(data)
	}
	err = json.Unmarshal(data, &h)
	return h, err
}

func (l *wsTransport) say(s request) error {
	data, err := json.Marshal(s)
	kind := websocket.MessageText
	if l.binary {
		kind = websocket.MessageBinary
		data, err = sayProto(s)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialPatience)
	defer cancel()
	return l.ws.Write(ctx, kind, data)
}

func (l *wsTransport) hangUp() {
	_ = l.ws.CloseNow() // fails if it is closed already
	l.http.CloseIdleConnections()
}

func sayProto(s request) ([]byte, error) {
	f := &wirepb.ClientFrame{Id: s.ID}
	switch {
	case s.Subscribe != nil:
		sub := &wirepb.Subscribe{Topics: s.Subscribe.Topics, Delivery: s.Subscribe.Delivery, MaxHz: s.Subscribe.MaxHz}
		if p := s.Subscribe.Since; p != nil {
			sub.Since = &wirepb.Since{Seq: p.Seq, Epoch: p.Epoch}
		}
		f.Frame = &wirepb.ClientFrame_Subscribe{Subscribe: sub}
	case s.Unsubscribe != nil:
		f.Frame = &wirepb.ClientFrame_Unsubscribe{Unsubscribe: &wirepb.Unsubscribe{Topics: s.Unsubscribe.Topics}}
	default:
		f.Frame = &wirepb.ClientFrame_Ping{Ping: &wirepb.Ping{}}
	}
	return proto.Marshal(f)
}

// receiveProto reads a binary frame into the form of its JSON.
func receiveProto(data []byte) (h received, err error) {
	var f wirepb.ServerFrame
	if err := proto.Unmarshal(data, &f); err != nil {
		return h, err
	}
	frame := map[string]any{"id": f.Id}
	switch v := f.Frame.(type) {
	case *wirepb.ServerFrame_Welcome:
		frame["welcome"] = map[string]any{"gateway": v.Welcome.Gateway, "epoch": v.Welcome.Epoch}
	case *wirepb.ServerFrame_Subscribed:
		s := v.Subscribed
		frame["subscribed"] = map[string]any{"topics": s.Topics, "seq": s.Seq, "epoch": s.Epoch, "resumed": s.Resumed,
			"reason": s.Reason}
	case *wirepb.ServerFrame_Unsubscribed:
		frame["unsubscribed"] = map[string]any{"topics": v.Unsubscribed.Topics}
	case *wirepb.ServerFrame_Pong:
		frame["pong"] = map[string]any{}
	case *wirepb.ServerFrame_Event:
		e := v.Event
		frame["event"] = map[string]any{
			"topic": e.Topic, "poll": e.Poll, "phase": e.Phase, "reason": e.Reason, "seq": e.Seq, "version": e.Version,
			"asOf": e.AsOf.AsTime(), "ageMs": e.AgeMs, "stale": e.Stale, "deleted": e.Deleted, "data": json.RawMessage(e.Data),
		}
		if len(e.Data) == 0 {
			delete(frame["event"].(map[string]any), "data")
		}
	case *wirepb.ServerFrame_Fresh:
		r := v.Fresh
		fresh := map[string]any{"poll": r.Poll, "reason": r.Reason, "stale": r.Stale}
		if r.AsOf != nil {
			fresh["asOf"] = r.AsOf.AsTime()
		}
		frame["fresh"] = fresh
	case *wirepb.ServerFrame_Error:
		frame["error"] = map[string]any{"code": v.Error.Code, "message": v.Error.Message}
	case *wirepb.ServerFrame_Goaway:
		frame["goaway"] = map[string]any{"reconnectAfterMs": v.Goaway.ReconnectAfterMs}
	}
	data, err = json.Marshal(frame)
	if err != nil {
		return h, err
	}
	err = json.Unmarshal(data, &h)
	return h, err
}

// sseTransport is an EventSource.
type sseTransport struct {
	body   *bufio.Reader
	cancel context.CancelFunc
	timer  *time.Timer
	close  func() error
	http   *http.Transport

	lastID string
}

func dialSSE(ctx context.Context, addr string, topics []string, lastID string, small bool) (*sseTransport, error) {
	tr := &http.Transport{DisableKeepAlives: true, DialContext: netDial(small)}
	ctx, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(dialPatience, cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet,
		"http://"+addr+"/v1/events?topics="+url.QueryEscape(strings.Join(topics, ",")), nil)
	if err != nil {
		cancel()
		return nil, err
	}
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err == nil && res.StatusCode != http.StatusOK {
		res.Body.Close()
		err = errors.New(res.Status)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	timer.Reset(silence)
	return &sseTransport{body: bufio.NewReaderSize(res.Body, 4096), cancel: cancel, timer: timer, close: res.Body.Close,
		http: tr, lastID: lastID}, nil
}

// receive reads one event of the stream. Its id counts when the event is
// complete.
func (l *sseTransport) receive() (h received, err error) {
	var id, name string
	var data []byte
	for {
		text, err := l.body.ReadBytes('\n')
		if err != nil {
			return h, err
		}
		l.timer.Reset(silence)
		text = bytes.TrimSuffix(text, []byte{'\n'})
		field, value, _ := strings.Cut(string(text), ": ")
		switch field {
		case "id":
			id = value
		case "event":
			name = value
		case "data":
			data = append(data, value...)
		case "":
			if data == nil {
				continue // a heartbeat
			}
			if id != "" {
				l.lastID = id
			}
			if name == "close" {
				return h, fmt.Errorf("closed: %s", data)
			}
			err = json.Unmarshal(data, &h)
			return h, err
		}
	}
}

func (l *sseTransport) say(request) error { return errors.New("an EventSource only hears") }

func (l *sseTransport) hangUp() {
	l.timer.Stop()
	l.cancel()
	_ = l.close() // cancelled
	l.http.CloseIdleConnections()
}
