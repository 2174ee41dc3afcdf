package bustest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pollcast/pollcast/pkg/bus"
)

// Proxy stands between clients and a NATS server. It knows where messages of the
// NATS protocol begin and end, so that it can add one of its own. It can also cut
// all connections.
type Proxy struct {
	URL string

	t     testing.TB
	to    string
	ln    net.Listener
	wg    sync.WaitGroup
	taken atomic.Int64
	mu    sync.Mutex
	down  bool
	open  map[*proxied]bool
}

// proxied is one connection through a Proxy.
type proxied struct {
	client, server net.Conn
	mu             sync.Mutex // held while a whole protocol message is written to the client
}

// NewProxy runs a proxy before a server until the test ends.
func (s *Server) NewProxy() *Proxy {
	s.t.Helper()
	return NewProxy(s.t, strings.TrimPrefix(s.URL, "nats://"))
}

// NewProxy runs a proxy before the address host:port until the test ends.
func NewProxy(t testing.TB, to string) *Proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{URL: "nats://" + ln.Addr().String(), t: t, to: to, ln: ln, open: map[*proxied]bool{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		ln.Close()
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// Config is the configuration of a service that uses the proxy.
func (p *Proxy) Config() bus.Config {
	c := bus.DefaultConfig()
	c.URL = p.URL
	return c
}

// Inject sends one message of the server to every client, such as -ERR 'why', and
// returns the number of clients.
func (p *Proxy) Inject(message string) (clients int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		c.mu.Lock()
		if _, err := fmt.Fprintf(c.client, "%s\r\n", message); err == nil {
			clients++
		}
		c.mu.Unlock()
	}
	return clients
}

// Accepted is how many connections clients have made so far.
func (p *Proxy) Accepted() int { return int(p.taken.Load()) }

// Cut ends all connections and refuses new ones until Mend.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = true
	for c := range p.open {
		c.close()
	}
}

// Mend takes connections again.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
}

func (p *Proxy) accept() {
	for {
		client, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.taken.Add(1)
		server, err := net.Dial("tcp", p.to)
		if err != nil {
			client.Close()
			continue
		}
		c := &proxied{client: client, server: server}
		p.mu.Lock()
		if p.down {
			c.close()
			p.mu.Unlock()
			continue
		}
		p.open[c] = true
		p.mu.Unlock()
		p.wg.Go(func() { p.relay(c) })
	}
}

// relay copies both ways until either side ends.
func (p *Proxy) relay(c *proxied) {
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(c.server, c.client) // ends when either side does
		c.close()
	})
	c.toClient()
	c.close()
	up.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
}

func (c *proxied) close() {
	c.client.Close()
	c.server.Close()
}

// toClient copies whole protocol messages.
func (c *proxied) toClient() {
	for r := bufio.NewReader(c.server); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		message := []byte(line)
		if f := strings.Fields(line); len(f) > 0 && (f[0] == "MSG" || f[0] == "HMSG") {
			size, err := strconv.Atoi(f[len(f)-1])
			if err != nil {
				return
			}
			payload := make([]byte, size+len("\r\n"))
			if _, err := io.ReadFull(r, payload); err != nil {
				return
			}
			message = append(message, payload...)
		}
		c.mu.Lock()
		_, err = c.client.Write(message)
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}
