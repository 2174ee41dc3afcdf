package gateway

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/hub"
)

// An sse is a client of server-sent events, as the WHATWG's parsing rules have
// it: an event ends with an empty line.
type sse struct {
	t    *testing.T
	res  *http.Response
	scan *bufio.Scanner
	id   string // the last event's, as a browser keeps it
}

func (r *rig) sse(path, lastEventID string) *sse {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, "http://"+r.gw.Addr()+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	if lastEventID != "" {
		req.Header.Set("Last-Event-ID", lastEventID)
	}
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { res.Body.Close() })
	return &sse{r.t, res, bufio.NewScanner(res.Body), lastEventID}
}

func (s *sse) next() (name string, f wire.ServerFrame) {
	s.t.Helper()
	timer := time.AfterFunc(patience, func() { s.res.Body.Close() })
	defer timer.Stop()
	for s.scan.Scan() {
		field, value, _ := strings.Cut(s.scan.Text(), ": ")
		switch field {
		case "event":
			name = value
		case "id":
			s.id = value
		case "data":
			if err := json.Unmarshal([]byte(value), &f); err != nil {
				s.t.Fatalf("data %s: %v", value, err)
			}
		case "":
			if name != "" {
				return name, f
			}
		}
	}
	return "end", f
}

func (s *sse) want(name string) wire.ServerFrame {
	s.t.Helper()
	have, f := s.next()
	if have != name {
		s.t.Fatalf("have %s %+v, want %s", have, f, name)
	}
	return f
}

func TestSSE(t *testing.T) {
	r := newRig(t, nil)
	r.event("host.cpu", `{"text":"a\nb <c>"}`)
	r.fresh(event.Freshness{Poll: "host.cpu", AsOf: time.Now().UTC()})
	eventually(t, "the gateway has read it", func() bool { return position(r.gw.server) == 2 })
	s := r.sse("/v1/events?topics=host.>", "")
	if s.res.StatusCode != http.StatusOK || s.res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s %v", s.res.Status, s.res.Header)
	}
	s.want("welcome")
	epoch := s.want("subscribed").Subscribed.Epoch
	if e := s.want("event").Event; e.Phase != wire.Snapshot || string(e.Data) != `{"text":"a\nb <c>"}` {
		t.Fatalf("have %+v, want the snapshot", e)
	}
	s.want("fresh")
	if want := epoch + ":1"; s.id != want {
		t.Fatalf("id %q, want %q", s.id, want)
	}
	r.event("host.cpu", `2`)
	if e := s.want("event").Event; e.Phase != wire.Live || e.Version != 2 || s.id != epoch+":3" {
		t.Fatalf("have %+v with id %s, want version 2, live, id %s:3", e, s.id, epoch)
	}
	s.res.Body.Close()
	eventually(t, "the connection is forgotten", func() bool { return len(r.gw.server.conns.all()) == 0 })
	r.event("host.cpu", `3`)
	r.event("host.cpu", `4`)
	eventually(t, "the gateway has read it", func() bool { return position(r.gw.server) == 5 })

	// The browser comes back by itself, with the last id.
	s = r.sse("/v1/events?topics=host.>", s.id)
	s.want("welcome")
	if sub := s.want("subscribed").Subscribed; !sub.Resumed {
		t.Fatalf("have %+v, want resumed", sub)
	}
	for v := uint64(3); v <= 4; v++ {
		if e := s.want("event").Event; e.Phase != wire.Replay || e.Version != v {
			t.Fatalf("have %+v, want version %d, replay", e, v)
		}
	}
	s.want("fresh")
	for _, tt := range []struct {
		path, id string
		status   int
	}{
		{"/v1/events", "", 400},
		{"/v1/events?topics=a..b", "", 400},
		{"/v1/events?topics=a.b", "nonsense", 400},
		{"/v1/events?topics=a.b", "E:-1", 400},
	} {
		res := r.sse(tt.path, tt.id).res
		if body, _ := io.ReadAll(res.Body); res.StatusCode != tt.status || len(body) < 20 {
			t.Errorf("%s with id %q: %s %q, want %d and a reason", tt.path, tt.id, res.Status, body, tt.status)
		}
	}
	// Drained like any other.
	go r.stop()
	s.want("goaway")
	if name, _ := s.next(); name != "close" {
		t.Errorf("have %s, want close", name)
	}
	if name, _ := s.next(); name != "end" {
		t.Errorf("have %s, want the end", name)
	}
	r.stop()
}

func TestValues(t *testing.T) {
	r := newRig(t, nil)
	r.event("host.cpu", `{"percent":1}`)
	r.event("other.x", `1`)
	r.fresh(event.Freshness{Poll: "host.cpu", AsOf: time.Now().UTC(), Stale: true, Reason: event.Timeout})
	eventually(t, "the gateway has read it", func() bool { return position(r.gw.server) == 3 })
	get := func(path, match string) (*http.Response, hub.Values) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.gw.Addr()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if match != "" {
			req.Header.Set("If-None-Match", match)
		}
		res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var v hub.Values
		if res.StatusCode == http.StatusOK {
			if err := json.NewDecoder(res.Body).Decode(&v); err != nil {
				t.Fatal(err)
			}
		}
		return res, v
	}
	res, v := get("/v1/values?topics=host.>", "")
	if len(v.Values) != 1 || v.Values[0].Topic != "host.cpu" || !v.Values[0].Stale || len(v.Fresh) != 1 || v.Seq != 3 {
		t.Fatalf("have %+v, want host.cpu, stale", v)
	}
	tag := res.Header.Get("ETag")
	if res, _ := get("/v1/values?topics=host.>", tag); res.StatusCode != http.StatusNotModified || res.Header.Get("Age") == "" {
		t.Errorf("nothing changed: %s, age %q; want 304 with an age", res.Status, res.Header.Get("Age"))
	}
	for _, match := range []string{`"x", W/` + tag, "*"} {
		if res, _ := get("/v1/values?topics=host.>", match); res.StatusCode != http.StatusNotModified {
			t.Errorf("If-None-Match %s: %s, want 304", match, res.Status)
		}
	}
	other, _ := r.start(nil)
	first := r.gw
	r.gw = other
	if res, _ := get("/v1/values?topics=host.>", tag); res.StatusCode != http.StatusNotModified {
		t.Errorf("at another gateway: %s, want 304", res.Status)
	}
	r.gw = first
	r.fresh(event.Freshness{Poll: "host.cpu", AsOf: time.Now().UTC()})
	eventually(t, "the gateway has read it", func() bool { return position(r.gw.server) == 4 })
	if res, v := get("/v1/values?topics=host.>", tag); res.StatusCode != http.StatusOK || v.Values[0].Stale {
		t.Errorf("after going fresh: %s %+v, want 200 and a fresh value", res.Status, v.Values)
	}
	for _, path := range []string{"/v1/values", "/v1/values?topics=a..b", "/v1/values?topics=" + strings.Repeat("a.b,", 10) + strings.Join(many(300), ",")} {
		if res, _ := get(path, ""); res.StatusCode != http.StatusBadRequest {
			t.Errorf("%.60s: %s, want 400", path, res.Status)
		}
	}
	if n := r.gw.Status().Feeds; n != 0 {
		t.Errorf("%d feeds left, want none", n)
	}
}

func many(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("t.%d", i)
	}
	return out
}
