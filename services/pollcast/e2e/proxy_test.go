package e2e

import (
	"errors"
	"net"
	"sync"
	"testing"
)

// proxy is the network between a process and NATS. It can hold everything back in
// both directions and deliver it later, or break connections.
type proxy struct {
	t        testing.TB
	addr, to string
	ln       net.Listener
	wg       sync.WaitGroup

	mu    sync.Mutex
	open  chan struct{} // closed while bytes may pass
	cut   bool          // no connection is accepted
	conns map[net.Conn]struct{}
	over  bool
}

func newProxy(t testing.TB, to string) *proxy {
	t.Helper()
	p := &proxy{t: t, addr: freeAddr(t), to: to, open: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	close(p.open)
	var err error
	if p.ln, err = net.Listen("tcp", p.addr); err != nil {
		t.Fatal(err)
	}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		p.mu.Lock()
		p.over = true
		p.mu.Unlock()
		p.ln.Close()
		p.let()
		p.disconnect()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		in, err := p.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil {
			continue
		}
		if !p.keep(in) {
			in.Close()
			continue
		}
		p.wg.Go(func() {
			defer p.drop(in)
			out, err := net.Dial("tcp", p.to)
			if err != nil {
				return
			}
			if !p.keep(out) {
				out.Close()
				return
			}
			defer p.drop(out)
			var both sync.WaitGroup
			both.Go(func() { p.pass(in, out) })
			p.pass(out, in)
			both.Wait()
		})
	}
}

// pass copies until either side ends.
func (p *proxy) pass(from, to net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			p.mu.Lock()
			open := p.open
			p.mu.Unlock()
			<-open
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut || p.over {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *proxy) drop(c net.Conn) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// hold holds every byte back in both directions until let: a network that loses
// everything for a while.
func (p *proxy) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = make(chan struct{})
}

// sever ends every connection and accepts no new one until let.
func (p *proxy) sever() {
	p.mu.Lock()
	p.cut = true
	p.mu.Unlock()
	p.disconnect()
}

// let repairs the network. Bytes that were held back arrive now.
func (p *proxy) let() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = false
	select {
	case <-p.open:
	default:
		close(p.open)
	}
}

func (p *proxy) disconnect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}
