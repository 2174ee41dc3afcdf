package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pollcast/pollcast/pkg/wire"
)

func TestCloseCodes(t *testing.T) {
	for _, tt := range []struct {
		code wire.CloseCode
		back bool
	}{
		{wire.CloseSlowConsumer, true},
		{wire.CloseTokenExpired, true},
		{wire.CloseRestart, true},
		{wire.CloseUnauthorized, false},
		{wire.CloseForbidden, false},
		{wire.CloseTooManyConnections, false},
		{wire.CloseProtocolError, false},
		{4999, false},
	} {
		t.Run(fmt.Sprint(int(tt.code)), func(t *testing.T) {
			t.Parallel()
			st := newStream()
			st.publish("host.cpu", 1)
			g := startGateway(t, st)
			c := connect(t, Options{URL: g.url()})
			s := subscribe(t, c, "host.>", SubscribeOptions{})
			next[*Event](t, s)
			g.hangUp(tt.code)
			u := next[*Connection](t, s)
			for u.Connected {
				u = next[*Connection](t, s)
			}
			ce, is := errors.AsType[*CloseError](u.Err)
			if !is || ce.Code != tt.code {
				t.Errorf("have %v, want close code %d", u.Err, tt.code)
			}
			if tt.back {
				if u := next[*Connection](t, s); !u.Connected {
					t.Errorf("have %+v, want another connection", u)
				}
				return
			}
			for range s.Updates() {
			}
			for _, err := range []error{s.Err(), c.Err()} {
				if ce, is := errors.AsType[*CloseError](err); !is || ce.Code != tt.code {
					t.Errorf("have %v, want close code %d", err, tt.code)
				}
			}
			<-c.Done()
			if _, err := c.Subscribe(t.Context(), []string{"a.b"}, SubscribeOptions{}); !errors.As(err, &ce) {
				t.Errorf("subscribe later: have %v, want why the client ended", err)
			}
			if have := g.accepted(); have != 1 {
				t.Errorf("have %d connections, want 1", have)
			}
		})
	}
}

func TestRefusedHandshake(t *testing.T) {
	for status, want := range map[int]wire.CloseCode{401: wire.CloseUnauthorized, 403: wire.CloseForbidden} {
		g := startGateway(t, newStream())
		g.hooks(func(w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, "no", status)
			return false
		}, nil)
		c := connect(t, Options{URL: g.url()})
		<-c.Done()
		err := c.Err()
		if ce, is := errors.AsType[*CloseError](err); !is || ce.Code != want {
			t.Errorf("HTTP %d: have %v, want close code %d", status, err, want)
		}
	}
}

// Token is called before every connect. The headers of the options arrive.
func TestTokenAndHeader(t *testing.T) {
	st := newStream()
	g := startGateway(t, st)
	got := make(chan string, 10)
	g.hooks(func(_ http.ResponseWriter, r *http.Request) bool {
		got <- r.Header.Get("Authorization") + " " + r.Header.Get("X-Team")
		return true
	}, nil)
	var n atomic.Int32
	c := connect(t, Options{
		URL:        g.url(),
		HTTPHeader: http.Header{"X-Team": {"ops"}},
		Token: func(context.Context) (string, error) {
			if n.Add(1) == 1 {
				return "", errors.New("the vault sleeps")
			}
			return fmt.Sprint("t", n.Load()), nil
		},
	})
	s := subscribe(t, c, "host.>", SubscribeOptions{})
	if u := next[*Connection](t, s); u.Connected || !strings.Contains(fmt.Sprint(u.Err), "get token: the vault sleeps") {
		t.Errorf("have %+v, want the token's error", u)
	}
	if have, want := <-got, "Bearer t2 ops"; have != want {
		t.Errorf("have %q, want %q", have, want)
	}
	nextThat(t, s, func(u *Connection) bool { return u.Connected })
	g.hangUp(wire.CloseTokenExpired)
	if have, want := <-got, "Bearer t3 ops"; have != want {
		t.Errorf("have %q, want %q", have, want)
	}
}

func TestSubscribeRefused(t *testing.T) {
	st := newStream()
	st.publish("host.cpu", 1)
	g := startGateway(t, st)
	tries := 0
	g.hooks(nil, func(p *peer, f *wire.ClientFrame) bool {
		if f.Subscribe == nil {
			return false
		}
		switch f.Subscribe.Topics[0] {
		case "eth.>":
			p.send(&wire.ServerFrame{ID: f.ID, Error: &wire.Error{Code: wire.CodeForbidden, Message: "not yours"}})
			return true
		case "host.>":
			if tries++; tries == 1 {
				p.send(&wire.ServerFrame{ID: f.ID, Error: &wire.Error{Code: wire.CodeUnavailable, Message: "no stream yet",
					Retryable: true}})
				return true
			}
		}
		return false
	})
	c := connect(t, Options{URL: g.url()})
	bad := subscribe(t, c, "eth.>", SubscribeOptions{})
	good := subscribe(t, c, "host.>", SubscribeOptions{})
	e, is := errors.AsType[*Error](bad.Ready(t.Context()))
	if !is || e.Code != wire.CodeForbidden || e.Message != "not yours" ||
		!reflect.DeepEqual(e.Topics, []string{"eth.>"}) {
		t.Errorf("have %v, want forbidden for eth.>", e)
	}
	for range bad.Updates() {
	}
	if bad.Err() == nil {
		t.Error("the refused subscription has no error")
	}
	if err := good.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	next[*Event](t, good)
	if c.Err() != nil {
		t.Errorf("the client ended: %v", c.Err())
	}
}

func TestConflictingSubscriptions(t *testing.T) {
	c := connect(t, Options{URL: startGateway(t, newStream()).url()})
	subscribe(t, c, "host.>", SubscribeOptions{})
	for _, tt := range []struct {
		topics string
		o      SubscribeOptions
		want   string // "": no error
	}{
		{"eth.cpu", SubscribeOptions{Delivery: wire.DeliverLatest}, "same Delivery"},
		{"eth.cpu", SubscribeOptions{MaxHz: 2}, "same Delivery"},
		{"host.cpu", SubscribeOptions{Since: &Position{1, "E1"}}, "overlaps"},
		{"eth.cpu", SubscribeOptions{Since: &Position{1, "E1"}}, ""},
		{"host.cpu", SubscribeOptions{}, ""},
	} {
		s, err := c.Subscribe(t.Context(), []string{tt.topics}, tt.o)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s %+v: %v", tt.topics, tt.o, err)
		case tt.want == "":
			s.Close()
		case err == nil || !strings.Contains(err.Error(), tt.want):
			t.Errorf("%s %+v: have %v, want %q in it", tt.topics, tt.o, err, tt.want)
		}
	}
}

func TestMaxTopics(t *testing.T) {
	st := newStream()
	for i := range 4 {
		st.publish(fmt.Sprintf("host.t%d", i), i)
	}
	st.publish("eth.head", 1)
	g := startGateway(t, st)
	c := connect(t, Options{URL: g.url(), MaxTopics: 3})
	small := subscribe(t, c, "eth.>", SubscribeOptions{})
	next[*Event](t, small)
	big := subscribe(t, c, "host.>", SubscribeOptions{})
	for range big.Updates() {
	}
	if !errors.Is(big.Err(), ErrTooManyTopics) {
		t.Errorf("have %v, want %v", big.Err(), ErrTooManyTopics)
	}
	st.publish("eth.head", 2)
	next[*Event](t, small)
	if have := topicsOf(c); len(have) != 1 {
		t.Errorf("have %v, want eth.head alone", have)
	}
}

func TestBadOptions(t *testing.T) {
	for _, tt := range []struct{ url, want string }{
		{"", "scheme"},
		{"localhost:12080", "scheme"},
		{"ftp://x", `scheme "ftp"`},
		{"ws://", "no host"},
		{"ws://joe:secret@x/v1/ws", "user or password"},
		{"ws://x:y:z/secret", "URL of the gateway"},
	} {
		_, err := New(Options{URL: tt.url})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: have %v, want %q in it", tt.url, err, tt.want)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error shows a secret: %v", tt.url, err)
		}
	}
	c := connect(t, Options{URL: "ws://127.0.0.1:1"})
	for _, tt := range []struct {
		topics string
		o      SubscribeOptions
		want   string
	}{
		{"", SubscribeOptions{}, "no topics"},
		{"host..cpu", SubscribeOptions{}, "token 2 is empty"},
		{"host.>", SubscribeOptions{Delivery: "some"}, `Delivery "some"`},
		{"host.>", SubscribeOptions{Delivery: wire.DeliverAll, MaxHz: 1}, "MaxHz 1"},
		{"host.>", SubscribeOptions{MaxHz: -1}, "MaxHz -1"},
		{"host.>", SubscribeOptions{Buffer: -1}, "Buffer -1"},
		{"host.>", SubscribeOptions{Since: &Position{Seq: 1}}, "no epoch"},
	} {
		_, err := c.Subscribe(t.Context(), strings.Fields(tt.topics), tt.o)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q %+v: have %v, want %q in it", tt.topics, tt.o, err, tt.want)
		}
	}
}
