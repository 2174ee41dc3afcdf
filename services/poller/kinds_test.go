package poller

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	conf "github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

// needle is in everything that may be secret, and in every bad answer.
const needle = "zk9-needle-in-the-hay-7Qx"

// ailment is a kind of failure, as a real upstream produces it.
type ailment struct {
	name   string
	reason event.Reason
	answer http.HandlerFunc // once it is ill
	poll   func(*config.Poll)
	stands bool // it fails by answering as before
}

func ailments() []ailment {
	status := func(code int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(code)
			_, _ = io.WriteString(w, "<html>"+needle)
		}
	}
	body := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			var q struct{ ID int }
			_ = json.NewDecoder(r.Body).Decode(&q)
			_, _ = io.WriteString(w, strings.ReplaceAll(text, "ID", fmt.Sprint(q.ID)))
		}
	}
	result := func(v string) http.HandlerFunc { return body(`{"jsonrpc":"2.0","id":ID,"result":` + v + `}`) }
	problem := func(code int) http.HandlerFunc {
		return body(fmt.Sprintf(`{"jsonrpc":"2.0","id":ID,"error":{"code":%d,"message":"no %s","data":"%s"}}`, code, needle, needle))
	}
	cut := func(linger bool, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			c, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, text)
			if !linger {
				_ = c.(*net.TCPConn).SetLinger(0)
			}
			_ = c.Close()
		}
	}
	const up, bad, rejected = event.UpstreamError, event.BadResponse, event.RequestRejected
	return []ailment{
		{name: "hang", reason: event.Timeout, answer: func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		}},
		{name: "refused", reason: up},
		{name: "reset", reason: up, answer: cut(false, "")},
		{name: "closed", reason: up, answer: cut(true, "")},
		{name: "broken-off", reason: up, answer: cut(true, "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")},
		{name: "500", reason: up, answer: status(500)},
		{name: "502", reason: up, answer: status(502)},
		{name: "503-retry-after", reason: up, answer: status(503, "Retry-After", "1")},
		{name: "429", reason: up, answer: status(429)},
		{name: "408", reason: up, answer: status(408)},
		{name: "server-error", reason: up, answer: problem(-32000)},
		{name: "internal-error", reason: up, answer: problem(-32603)},
		{name: "400", reason: rejected, answer: status(400)},
		{name: "401", reason: rejected, answer: status(401, "WWW-Authenticate", needle)},
		{name: "404", reason: rejected, answer: status(404)},
		{name: "invalid-params", reason: rejected, answer: problem(-32602)},
		{name: "no-method", reason: rejected, answer: problem(-32601)},
		{name: "redirect", reason: bad, answer: status(302, "Location", "http://127.0.0.1:1/"+needle)},
		{name: "garbage", reason: bad, answer: body("\x00" + needle)},
		{name: "half-json", reason: bad, answer: body(`{"jsonrpc":"2.0","id":ID,"result":"` + needle)},
		{name: "wrong-type", reason: bad, answer: body(`[1,"` + needle + `"]`)},
		{name: "wrong-id", reason: bad, answer: body(`{"jsonrpc":"2.0","id":-7,"result":1}`)},
		{name: "empty", reason: bad, answer: body("")},
		{name: "too-large", reason: bad, answer: result(`"` + strings.Repeat("x", 8<<10) + `"`)},
		{name: "jq", reason: bad, answer: result(`["` + needle + `"]`), poll: func(p *config.Poll) { p.Select = ".n" }},
		{name: "too-many-keys", reason: bad, answer: result(`{"n":[1,2,3]}`), poll: func(p *config.Poll) {
			p.Each, p.Key, p.MaxKeys = ".n | if type == \"number\" then [.] else . end | .[]", "tostring", 2
		}},
		{name: "stands-still", reason: event.NotAdvancing, stands: true, answer: result(`{"n":7}`), poll: func(p *config.Poll) {
			p.MustAdvance = config.MustAdvance{Path: ".n", Within: time.Second}
		}},
	}
}

// patient is an upstream that is well until it is told to be ill.
type patient struct {
	*httptest.Server
	kind  ailment
	ill   atomic.Bool
	since atomic.Int64 // nanoseconds, when the first call came that it failed
	n     atomic.Int64
}

func (p *patient) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.ill.Load() {
		p.since.CompareAndSwap(0, time.Now().UnixNano())
		p.kind.answer(w, r)
		return
	}
	var q struct{ ID int }
	_ = json.NewDecoder(r.Body).Decode(&q)
	n := int64(7)
	if p.kind.stands {
		n = p.n.Add(1) - 1000
	}
	_, _ = fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%d,"result":{"n":%d}}`, q.ID, n)
}

// Every kind of failure, by real servers: the first record after the failure
// says stale, and why; the payload is not sent again, neither while it is stale
// nor when it is fresh again; and no secret is in anything anybody can read.
func TestEveryFailure(t *testing.T) {
	s := bustest.Start(t)
	w := watch(t, s)
	c := config.Config{Sources: map[string]config.Source{}}
	patients := map[string]*patient{}
	for _, k := range ailments() {
		p := &patient{kind: k}
		p.Server = httptest.NewServer(p)
		t.Cleanup(p.CloseClientConnections)
		t.Cleanup(p.Close)
		poll := config.Poll{
			Interval: time.Second, Timeout: 800 * time.Millisecond, Method: "m",
			Params: map[string]any{"token": needle},
		}
		if k.poll != nil {
			k.poll(&poll)
		}
		patients[k.name+".a"] = p
		c.Sources[k.name] = config.Source{
			Upstreams: []string{p.URL + "/" + needle + "?key=" + needle}, MaxAnswer: 4 << 10,
			Headers: map[string]conf.Secret{"Authorization": conf.NewSecret("Bearer " + needle)},
			Breaker: config.Breaker{Failures: 100, OpenFor: time.Minute},
			Polls:   map[string]config.Poll{"a": poll},
		}
	}
	p := run(t, c, s.Config())
	well := map[string]bool{}
	w.until("all are well", func(m bus.Message) bool {
		if m.Fresh != nil && !m.Fresh.Stale {
			well[m.Fresh.Poll] = true
		}
		return len(well) == len(patients)
	})
	for _, u := range patients {
		u.ill.Store(true)
		if u.kind.answer == nil {
			u.CloseClientConnections()
			u.Listener.Close()
			u.since.Store(time.Now().UnixNano())
		}
	}
	from := len(w.seen)
	stale, later := map[string]bool{}, map[string]bool{}
	w.until("all are stale, twice", func(m bus.Message) bool {
		f := m.Fresh
		if f == nil {
			return false
		}
		u := patients[f.Poll]
		switch since := u.since.Load(); {
		case f.Stale && stale[f.Poll]:
			later[f.Poll] = true
		case f.Stale:
			stale[f.Poll] = true
			if f.Reason != u.kind.reason || f.Detail == "" {
				t.Errorf("%s: %s (%s), want %s", u.kind.name, f.Reason, f.Detail, u.kind.reason)
			}
			if late := f.CheckedAt.Sub(time.Unix(0, since)); !u.kind.stands && late > pollertest.Patience {
				t.Errorf("%s: stale %v after the failure", u.kind.name, late)
			}
		case stale[f.Poll]:
			t.Errorf("%s: fresh again while it fails: %s", u.kind.name, pollertest.Show(m))
		case !u.kind.stands && since != 0 && f.AsOf.UnixNano() > since+int64(time.Millisecond):
			t.Errorf("%s: confirmed by a call that failed: %s", u.kind.name, pollertest.Show(m))
		}
		return len(later) == len(patients)
	})
	back := map[string]bool{}
	for name, u := range patients {
		if u.kind.answer == nil || u.kind.stands {
			back[name] = true
		}
		u.n.Store(1_000_000)
		u.ill.Store(false)
	}
	w.until("all are well again", func(m bus.Message) bool {
		if m.Fresh != nil && !m.Fresh.Stale {
			back[m.Fresh.Poll] = true
		}
		return len(back) == len(patients)
	})
	for _, m := range w.seen[from:] {
		if m.Event != nil && !patients[m.Event.Poll].kind.stands {
			t.Errorf("the payload was sent again: %s", pollertest.Show(m))
		}
	}

	outputs := map[string]string{"metrics": gather(t, p.reg)}
	status, err := json.Marshal(p.Status())
	if err != nil {
		t.Fatal(err)
	}
	outputs["status"] = string(status)
	for _, format := range []string{"html", "json"} {
		rec := httptest.NewRecorder()
		p.StatusHandler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/status?format="+format, nil))
		if rec.Code != http.StatusOK {
			t.Errorf("status as %s: %d", format, rec.Code)
		}
		outputs["status as "+format] = rec.Body.String()
	}
	p.stop()
	outputs["log"] = p.log.String()
	outputs["records"] = stored2text(t, s)
	for _, name := range slices.Sorted(maps.Keys(outputs)) {
		if i := strings.Index(outputs[name], needle); i >= 0 {
			t.Errorf("a secret is in the %s: …%s", name, outputs[name][max(0, i-300):min(len(outputs[name]), i+100)])
		}
		if len(outputs[name]) < 1000 {
			t.Errorf("%s: only %q", name, outputs[name])
		}
	}
}

// stored2text is all that the stream holds, headers too.
func stored2text(t *testing.T, s *bustest.Server) string {
	t.Helper()
	_, js, names := s.JetStream()
	stream, err := js.Stream(t.Context(), names.Stream())
	if err != nil {
		t.Fatal(err)
	}
	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		m, err := stream.GetMsg(t.Context(), seq)
		if err != nil {
			continue // superseded meanwhile
		}
		fmt.Fprintf(&b, "%s %v %s\n", m.Subject, m.Header, m.Data)
	}
	return b.String()
}
