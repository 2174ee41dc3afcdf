package gateway

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pollcast/pollcast/services/gateway/conn"
	"github.com/pollcast/pollcast/services/gateway/hub"
	"github.com/pollcast/pollcast/services/gateway/memory"
)

func getStatus(t *testing.T, g *Gateway, accept string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+g.OperationsAddr()+"/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("have %s %v: %s", res.Status, err, b)
	}
	return res, string(b)
}

// The status says what there is, and names who is slow and what it costs.
func TestStatus(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxLag, c.AllowedOrigins = 1<<30, nil })
	r.event("a.b", "1")
	r.dial("/v1/ws?topics=a.b,no.such")
	slow := dialSmall(t, r.gw.Addr(), "/v1/ws?topics=big.x")
	body := `"` + strings.Repeat("x", 32<<10) + `"`
	c := r.block("big.x", body)
	for range 10 {
		r.event("big.x", body)
	}
	if res, err := http.Get("http://" + r.gw.Addr() + "/v1/values?topics=a.b"); err != nil { // an idle socket
		t.Fatal(err)
	} else {
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.gw.Addr()+"/v1/topics", nil)
	req.Header.Set("Origin", "https://evil.example")
	if res, err := http.DefaultClient.Do(req); err != nil {
		t.Fatal(err)
	} else {
		res.Body.Close()
	}
	var st Status
	eventually(t, "the sweep has seen it", func() bool {
		_, text := getStatus(t, r.gw, "*/*")
		st = Status{}
		if err := json.Unmarshal([]byte(text), &st); err != nil {
			t.Fatal(err)
		}
		return len(st.Slowest) == 1 && st.Slowest[0].SecondsBehind > 0 && st.Memory.By.Frames > 0 // a sweep may have begun before the frames came
	})
	s := st.Slowest[0]
	if s.Connection != c.Name || s.Address != slow.LocalAddr().String() || !s.Blocked || s.Delivery != "all" || s.Topics != 1 ||
		s.BytesBehind < 100<<10 || time.Since(s.Since) > time.Hour || s.Protocol != "pollcast.v1.json" {
		t.Errorf("the slowest: %+v", s)
	}
	if !st.Ready || st.Gateway != "gw" || st.NATS != "CONNECTED" || st.Server == "" || st.Epoch == "" || st.Seq < 11 ||
		st.Topics != 2 || st.TopicsWaited != 1 || st.Connections != 2 || st.Blocked != 1 || st.Feeds != 2 || st.Subscriptions != 3 {
		t.Errorf("have %+v", st)
	}
	if m := st.Memory; m.Used < memory.ProcessCost+100<<10 || m.Budget != int64(r.gw.server.cfg.memory()) || m.By.Base != memory.ProcessCost || m.By.Frames < 100<<10 {
		t.Errorf("memory: %+v", m)
	}
	if st.Refused["origin"] != 1 {
		t.Errorf("refused: %v, want one page of another site", st.Refused)
	}
	res, page := getStatus(t, r.gw, "text/html,application/xhtml+xml,*/*;q=0.8")
	for _, want := range []string{"<h1>Gateway gw", c.Name, s.Address, "origin 1", "CONNECTED"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	if !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") || res.Header.Get("Content-Security-Policy") == "" {
		t.Errorf("have %v", res.Header)
	}
	http.DefaultClient.CloseIdleConnections()
}

// Of many slow connections the dearest are named.
func TestStatusNamesTheDearest(t *testing.T) {
	r := newRig(t, nil)
	s := r.gw.server
	for i := range 100 {
		c := s.newSession(nopConn{}, hub.JSON)
		c.Queue(conn.Step{Data: make([]byte, (i*37)%100<<10)})
		s.conns.reserve(1000)
		s.conns.add(c)
		defer s.conns.remove(c)
	}
	st := s.status(time.Now())
	if len(st.Slowest) != slowest {
		t.Fatalf("%d named, want %d", len(st.Slowest), slowest)
	}
	for i, c := range st.Slowest {
		if c.PrivateBytes != int64(99-i)<<10 {
			t.Errorf("place %d has %d KiB, want %d", i, c.PrivateBytes>>10, 99-i)
		}
	}
}

// A nopConn is a socket of nobody.
type nopConn struct{ net.Conn }

func (nopConn) Close() error                     { return nil }
func (nopConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (nopConn) SetWriteDeadline(time.Time) error { return nil }
func (nopConn) SetReadDeadline(time.Time) error  { return nil }
func (nopConn) Write(b []byte) (int, error)      { return len(b), nil }
