package client

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// pipes is a listener without a network, for tests in a synctest bubble.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 12080} }

func (l *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	a, b := net.Pipe()
	select {
	case l.conns <- buffered(b):
		return buffered(a), nil
	case <-l.done:
		return nil, fmt.Errorf("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// bufferedConn is a pipe's end that accepts a write at once, as a socket does.
type bufferedConn struct {
	net.Conn
	mu    sync.Mutex
	queue [][]byte
	ended bool
	more  chan struct{}
}

func buffered(c net.Conn) *bufferedConn {
	b := &bufferedConn{Conn: c, more: make(chan struct{}, 1)}
	go b.pump()
	return b
}

func (c *bufferedConn) pump() {
	defer c.Conn.Close()
	for range c.more {
		c.mu.Lock()
		queue, ended := c.queue, c.ended
		c.queue = nil
		c.mu.Unlock()
		for _, b := range queue {
			if _, err := c.Conn.Write(b); err != nil {
				c.mu.Lock()
				c.ended = true
				c.mu.Unlock()
				return
			}
		}
		if ended {
			return
		}
	}
}

func (c *bufferedConn) poke() {
	select {
	case c.more <- struct{}{}:
	default:
	}
}

func (c *bufferedConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return 0, net.ErrClosed
	}
	c.queue = append(c.queue, append([]byte(nil), b...))
	c.poke()
	return len(b), nil
}

// SetWriteDeadline has no effect: writing never waits.
func (c *bufferedConn) SetWriteDeadline(time.Time) error { return nil }
func (c *bufferedConn) SetDeadline(t time.Time) error    { return c.Conn.SetReadDeadline(t) }

// Close sends what was written if the other end reads it within a second.
func (c *bufferedConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.poke()
	_ = c.Conn.SetWriteDeadline(time.Now().Add(time.Second))
	return c.Conn.SetReadDeadline(time.Unix(1, 0))
}
