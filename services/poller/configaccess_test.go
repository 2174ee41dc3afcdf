package poller

import (
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	conf "github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/pollertest"
	"github.com/pollcast/pollcast/services/poller/source/sourcetest"
)

func TestAccessMistakes(t *testing.T) {
	secret := conf.NewSecret("hunter22")
	authority := sourcetest.NewAuthority(t, "test authority")
	cert, key := authority.Now("client").Files()
	oldCert, oldKey := authority.Issue(time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour), "client").Files()
	for _, tt := range []struct {
		change func(*config.Source)
		want   string // "" means no mistake
	}{
		{func(s *config.Source) { s.Auth.Bearer = secret }, ""},
		{func(s *config.Source) { s.Auth.Basic = config.Basic{Username: "me", Password: secret} }, ""},
		{func(s *config.Source) {
			s.Auth = config.Auth{Bearer: secret, Basic: config.Basic{Username: "me", Password: secret}}
		}, "sources.s.auth: bearer and basic both say who asks; keep one of them"},
		{func(s *config.Source) {
			s.Auth.Bearer, s.Headers = secret, map[string]conf.Secret{"authorization": secret}
		}, "sources.s.auth: headers has authorization as well"},
		{func(s *config.Source) { s.Auth.Bearer = conf.NewSecret("hunter22\n") }, "sources.s.auth.bearer: its value holds a control character"},
		{func(s *config.Source) { s.Auth.Basic.Password = secret }, "sources.s.auth.basic.username: it is missing"},
		{func(s *config.Source) { s.Auth.Basic = config.Basic{Username: "me:you", Password: secret} }, "sources.s.auth.basic.username: it holds a colon"},
		{func(s *config.Source) {
			s.TLS = config.TLS{CA: authority.File(), Cert: cert, Key: key, ServerName: "a.example"}
		}, ""},
		{func(s *config.Source) { s.Upstreams, s.TLS.CA = []string{"http://u/"}, cert }, "sources.s.tls: no upstream of the source is asked over TLS; write https://"},
		{func(s *config.Source) { s.TLS.ServerName = "a.example:443" }, "sources.s.tls.serverName: it is no host name"},
		{func(s *config.Source) { s.TLS.CA = "/nowhere/ca.pem" }, "sources.s.tls.ca: /nowhere/ca.pem: there is no such file"},
		{func(s *config.Source) { s.TLS = config.TLS{Cert: oldCert, Key: oldKey} }, "sources.s.tls.cert: " + oldCert + ": the certificate expired on 20"},
		{func(s *config.Source) { s.TLS = config.TLS{Cert: cert, Key: oldKey} }, "sources.s.tls.key: " + oldKey + ": it is not the key of " + cert},
	} {
		s := config.Source{Upstreams: []string{"https://u/"}, Polls: map[string]config.Poll{"p": {Method: "m"}}}
		tt.change(&s)
		c := config.Config{Sources: map[string]config.Source{"s": s}}
		switch err := c.Err(); {
		case tt.want == "" && err != nil:
			t.Errorf("unexpected: %v", err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("have %v\nwant %s", err, tt.want)
		case err != nil && strings.Contains(err.Error(), "hunter22"):
			t.Errorf("a secret shows: %v", err)
		}
	}
}

// What a source is let in with arrives, and shows nowhere.
func TestCredentials(t *testing.T) {
	const secret = "hunter22-sesame"
	basic := base64.StdEncoding.EncodeToString([]byte("me:" + secret))
	for _, tt := range []struct {
		auth config.Auth
		want string
	}{
		{config.Auth{Bearer: conf.NewSecret(secret)}, "Bearer " + secret},
		{config.Auth{Basic: config.Basic{Username: "me", Password: conf.NewSecret(secret)}}, "Basic " + basic},
	} {
		s := bustest.Start(t)
		// It lets nobody in who says the wrong thing, and repeats it.
		u := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == tt.want && r.URL.Path == "/open" {
				_, _ = io.WriteString(w, `true`)
				return
			}
			http.Redirect(w, r, "http://elsewhere.example/"+secret+"?token="+secret, http.StatusFound)
		}))
		t.Cleanup(u.Close)
		w := watch(t, s)
		p := run(t, config.Config{Sources: map[string]config.Source{"api": {
			Driver: "http", Upstreams: []string{u.URL}, Auth: tt.auth,
			Polls: map[string]config.Poll{"open": {Interval: 100 * time.Millisecond, Path: "open"}, "shut": {Interval: 100 * time.Millisecond, Path: "shut"}},
		}}}, s.Config())
		w.until("the value", func(m bus.Message) bool { return m.Event != nil && string(m.Event.Data) == "true" })
		f := w.fresh("stale", func(f *event.Freshness) bool { return f.Poll == "api.shut" && f.Stale })
		if want := "HTTP 302 Found: redirects are not followed, this one leads to http://elsewhere.example"; f.Detail != want || f.Reason != event.BadResponse {
			t.Errorf("%s: %s, want %s", f.Reason, f.Detail, want)
		}
		p.stop()
		for name, text := range map[string]string{"log": p.log.String(), "metrics": gather(t, p.reg), "stream": dump(w)} {
			if strings.Contains(text, secret) || strings.Contains(text, basic) {
				t.Errorf("a secret is in the %s:\n%s", name, text)
			}
		}
	}
}

// dump is all that was published.
func dump(w *watcher) string {
	var b strings.Builder
	for _, m := range w.seen {
		b.WriteString(pollertest.Show(m))
	}
	return b.String()
}

// An upstream's certificate expires while it is polled: kept connections go on,
// the next one fails, and the last value stays, stale, with the date.
func TestCertificateExpires(t *testing.T) {
	authority := sourcetest.NewAuthority(t, "test authority")
	u := sourcetest.NewSecureServer(t, authority.Now("127.0.0.1"), nil)
	s := bustest.Start(t)
	w := watch(t, s)
	run(t, config.Config{Sources: map[string]config.Source{"api": {
		Upstreams: []string{u.URL}, TLS: config.TLS{CA: authority.File()}, Breaker: config.Breaker{Failures: 100},
		Polls: map[string]config.Poll{"p": {Interval: 100 * time.Millisecond, Method: "m"}},
	}}}, s.Config())
	good := w.event()
	until := time.Now().Add(-time.Minute)
	u.Show(authority.Issue(time.Now().Add(-time.Hour), until, "127.0.0.1"))
	w.fresh("a kept connection goes on", func(f *event.Freshness) bool { return !f.Stale && f.AsOf.After(until.Add(time.Minute)) })
	u.CloseClientConnections()
	f := w.fresh("stale", func(f *event.Freshness) bool { return f.Stale && strings.HasPrefix(f.Detail, "TLS") })
	if want := "TLS: the upstream's certificate expired on " + until.UTC().Format("2006-01-02 15:04 UTC"); f.Detail != want || f.Reason != event.UpstreamError {
		t.Errorf("%s: %s, want %s", f.Reason, f.Detail, want)
	}
	if f.AsOf.Before(good.AsOf) {
		t.Errorf("as of %v, before that of the value, %v", f.AsOf, good.AsOf)
	}
	u.Show(authority.Now("127.0.0.1"))
	w.fresh("fresh again", func(f *event.Freshness) bool { return !f.Stale })
}
