package poller

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

// line is the way from a poller to NATS. It can lose a connection together with
// the message that was sent last, and bring that to the server later, when the
// poller is long connected anew.
type line struct {
	t   *testing.T
	ln  net.Listener
	to  string
	wg  sync.WaitGroup
	mu  sync.Mutex
	all []net.Conn

	trap   []byte // what the message begins with; nil: everything passes
	caught chan struct{}
	late   []byte
	over   net.Conn // to the server
	read   chan struct{}
}

func newLine(t *testing.T, s *bustest.Server) *line {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{t: t, ln: ln, to: strings.TrimPrefix(s.URL, "nats://"), caught: make(chan struct{}), read: make(chan struct{}, 1)}
	l.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			l.wg.Go(func() { l.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		l.mu.Lock()
		for _, c := range l.all {
			_ = c.Close()
		}
		l.mu.Unlock()
		l.wg.Wait()
	})
	return l
}

func (l *line) serve(client net.Conn) {
	server, err := net.Dial("tcp", l.to)
	if err != nil {
		_ = client.Close()
		return
	}
	l.mu.Lock()
	l.all = append(l.all, client, server)
	l.mu.Unlock()
	l.wg.Go(func() { l.answer(server, client) })
	defer func() { _ = client.Close() }()
	for buf := make([]byte, 64<<10); ; {
		n, err := client.Read(buf)
		if err == nil && l.catch(buf[:n], server) {
			return // the server's side stays
		}
		if err == nil {
			_, err = server.Write(buf[:n])
		}
		if err != nil {
			_ = server.Close()
			return
		}
	}
}

// answer brings what the server says to the poller, which may be gone.
func (l *line) answer(server, client net.Conn) {
	for buf := make([]byte, 64<<10); ; {
		n, err := server.Read(buf)
		if err != nil {
			_ = client.Close()
			return
		}
		l.mu.Lock()
		if l.over == server && bytes.Contains(buf[:n], []byte(`"stream":"POLLCAST"`)) {
			select {
			case l.read <- struct{}{}:
			default:
			}
		}
		l.mu.Unlock()
		_, _ = client.Write(buf[:n])
	}
}

// catch keeps what holds the message that the trap is set for.
func (l *line) catch(sent []byte, server net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.trap == nil || !bytes.Contains(sent, l.trap) {
		return false
	}
	l.trap, l.late, l.over = nil, bytes.Clone(sent), server
	close(l.caught)
	return true
}

// lose loses the next message on a subject, after act.
func (l *line) lose(subject string, act func()) {
	l.t.Helper()
	l.mu.Lock()
	l.trap = []byte("PUB " + subject + " ")
	l.mu.Unlock()
	act()
	select {
	case <-l.caught:
	case <-time.After(pollertest.Patience):
		l.t.Fatal("nothing was sent that could be lost")
	}
}

// deliver brings what was lost to the server, and waits until it has answered.
func (l *line) deliver() {
	l.t.Helper()
	if _, err := l.over.Write(l.late); err != nil {
		l.t.Fatal(err)
	}
	select {
	case <-l.read:
	case <-time.After(pollertest.Patience):
		l.t.Fatal("NATS says nothing to what was late")
	}
}

// An event whose acknowledgement did not come is stored after all, long after
// the poller has looked what the stream holds and gone on: no version is given
// twice, also of keys and of positions, and when the poller was given another
// configuration meanwhile.
func TestInFlight(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name                        string
		keyed, walk, reload, before bool
	}{
		{name: "value"}, {name: "value that comes first", before: true}, {name: "key", keyed: true}, {name: "position", walk: true},
		{name: "value and a reload", reload: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, way := bustest.Start(t), (*line)(nil)
			way = newLine(t, s)
			var mu sync.Mutex
			n := 0
			set := func(to int) func() { return func() { mu.Lock(); n = to; mu.Unlock() } }
			u := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				switch at, ok := strings.CutPrefix(r.URL.Path, "/at/"); {
				case ok:
					_, _ = fmt.Fprintf(w, `{"n":"v%s"}`, at)
				case r.URL.Path == "/head":
					_, _ = fmt.Fprint(w, n)
				default:
					_, _ = fmt.Fprintf(w, `{"n":"v%d"}`, n)
				}
			}))
			t.Cleanup(u.Close)
			// With so long an age no renewal comes that would refuse what is late.
			p, topic := config.Poll{Interval: 100 * time.Millisecond, MaxAge: 10 * time.Minute, Path: "/"}, "s.p"
			switch {
			case c.keyed:
				p.Each, p.Key, topic = "to_entries[]", ".key", "s.p.n"
			case c.walk:
				p.Path, p.Follow = "/at/{{ $position }}", &config.Follow{Head: config.Head{Path: "/head"}}
			}
			settings := config.Config{Sources: map[string]config.Source{"s": {Driver: "http", Upstreams: []string{u.URL}, Polls: map[string]config.Poll{"p": p}}}}
			w := watch(t, s)
			b := s.Config()
			b.URL = "nats://" + way.ln.Addr().String()
			poller := runPrepared(t, settings, b, &pollertest.LogLines{}, func(p *Poller) { p.publishTimeout = 2 * time.Second })
			value := func(n int) {
				t.Helper()
				w.until(fmt.Sprint("value ", n), func(m bus.Message) bool {
					return m.Event != nil && strings.Contains(string(m.Event.Data), fmt.Sprintf(`"v%d"`, n))
				})
			}
			value(0)
			w.fresh("confirmed", func(f *event.Freshness) bool { return !f.Stale })
			// It comes after NATS has forgotten its message id.
			_, js, names := s.JetStream()
			forgetful := names.StreamConfig(s.Config())
			forgetful.Duplicates = 100 * time.Millisecond
			if _, err := js.UpdateStream(t.Context(), forgetful); err != nil {
				t.Fatal(err)
			}

			way.lose(names.In(topic), set(1))
			if c.before {
				way.deliver()
			}
			set(2)()
			if c.reload {
				next := p
				next.Timeout = 50 * time.Millisecond
				if _, err := poller.Reload(t.Context(), config.Config{Sources: map[string]config.Source{"s": {Driver: "http", Upstreams: []string{u.URL}, Polls: map[string]config.Poll{"p": next}}}}); err != nil {
					t.Fatal(err)
				}
			}
			value(2)
			if !c.before {
				time.Sleep(3 * forgetful.Duplicates)
				way.deliver()
			}
			set(3)()
			value(3)
			last := uint64(0)
			for _, m := range w.seen {
				if e := m.Event; e != nil {
					if last++; e.Version != last {
						t.Errorf("event %d: %s", last, pollertest.Show(m))
					}
				}
			}
			if last > 4 || last < 3 {
				t.Errorf("%d events", last)
			}
		})
	}
}
