//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// mark comes before the time in an event's data. It is nowhere else in a frame.
const mark = '@'

// clients are WebSocket connections that count the events they receive. One
// thread reads all of them, because the clients must cost less than the server
// that is measured, also on two cores.
type clients struct {
	epoll int
	conns []*client
	byFD  [1 << 16]*client // set before the descriptor is watched

	arrived atomic.Int64
	bytes   atomic.Int64
	goal    atomic.Int64
	reached chan struct{} // receives when goal is reached; capacity 1
	late    [latencyBuckets]atomic.Uint32
	failed  chan error
}

type client struct {
	fd   int
	part []byte // the beginning of an incomplete frame
	n    int    // events received, to sample every eighth
}

func newClients() (*clients, error) {
	ep, err := syscall.EpollCreate1(0)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &clients{epoll: ep, reached: make(chan struct{}, 1), failed: make(chan error, 1)}, nil
}

// add connects one more client; topics is the value of ?topics=.
func (cs *clients) add(addr, topics string) error {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}); err != nil {
		syscall.Close(fd)
		return fmt.Errorf("connect to %s: %w", addr, err)
	}
	c := &client{fd: fd, n: len(cs.conns)}
	if c.part, err = handshake(fd, topics); err != nil {
		syscall.Close(fd)
		return err
	}
	if err := syscall.SetNonblock(fd, true); err != nil {
		return err
	}
	cs.conns = append(cs.conns, c)
	return nil
}

// handshake upgrades the connection and returns the bytes that followed the answer.
func handshake(fd int, topics string) ([]byte, error) {
	request := "GET /v1/ws?topics=" + topics + " HTTP/1.1\r\nHost: bench\r\n" +
		"Upgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
	if _, err := syscall.Write(fd, []byte(request)); err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	var answer []byte
	buf := make([]byte, 4096)
	for {
		n, err := syscall.Read(fd, buf)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return nil, fmt.Errorf("handshake: %w", errors.Join(err, errors.New("no answer")))
		}
		answer = append(answer, buf[:n]...)
		head, rest, found := bytes.Cut(answer, []byte("\r\n\r\n"))
		if !found {
			continue
		}
		if !strings.HasPrefix(string(head), "HTTP/1.1 101") {
			line, _, _ := strings.Cut(string(head), "\r\n")
			return nil, fmt.Errorf("handshake: %s", line)
		}
		return bytes.Clone(rest), nil
	}
}

// watch adds the clients from number from on to the epoll set.
func (cs *clients) watch(from int) error {
	for _, c := range cs.conns[from:] {
		cs.byFD[c.fd] = c
		ev := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(c.fd)}
		if err := syscall.EpollCtl(cs.epoll, syscall.EPOLL_CTL_ADD, c.fd, &ev); err != nil {
			return fmt.Errorf("epoll: %w", err)
		}
	}
	return nil
}

// read reads from all clients until one fails.
func (cs *clients) read() {
	events := make([]syscall.EpollEvent, 512)
	buf := make([]byte, 256<<10)
	for {
		n, err := syscall.EpollWait(cs.epoll, events, -1)
		if err != nil && err != syscall.EINTR {
			cs.failed <- fmt.Errorf("epoll: %w", err)
			return
		}
		for _, ev := range events[:max(n, 0)] {
			c := cs.byFD[ev.Fd]
			n, err := syscall.Read(c.fd, buf)
			if err == syscall.EAGAIN || err == syscall.EINTR {
				continue
			}
			if err != nil || n <= 0 {
				cs.failed <- fmt.Errorf("a connection ended: %w", errors.Join(err, errors.New("end of file")))
				return
			}
			in := buf[:n]
			if len(c.part) > 0 {
				in = append(c.part, in...)
			}
			c.part = append(c.part[:0:0], cs.take(c, in)...)
		}
	}
}

// take counts the complete frames of in and returns the rest.
func (cs *clients) take(c *client, in []byte) []byte {
	now, count, size := time.Now().UnixNano(), int64(0), int64(0)
	for len(in) >= 2 {
		n, head := int(in[1]), 2
		if n == 126 {
			if len(in) < 4 {
				break
			}
			n, head = int(binary.BigEndian.Uint16(in[2:])), 4
		}
		if len(in) < head+n {
			break
		}
		op, frame := in[0], in[head:head+n]
		in = in[head+n:]
		if op == 0x89 { // ping: answer with an empty, masked pong
			_, _ = syscall.Write(c.fd, []byte{0x8A, 0x80, 0, 0, 0, 0}) // a dead socket shows in Read
		}
		i := bytes.IndexByte(frame, mark)
		if op != 0x81 || i < 0 {
			continue // welcome, subscribed, freshness
		}
		count++
		size += int64(head + n)
		if c.n++; c.n%8 == 0 {
			digits := frame[i+1:]
			if at, err := strconv.ParseInt(string(digits[:max(0, bytes.IndexByte(digits, '"'))]), 10, 64); err == nil {
				cs.late[bucket(now-at)].Add(1)
			}
		}
	}
	if count > 0 {
		cs.bytes.Add(size)
		if cs.arrived.Add(count) >= cs.goal.Load() {
			select {
			case cs.reached <- struct{}{}:
			default:
			}
		}
	}
	return in
}

// latencyBuckets is the size of a histogram of latencies: sixteen buckets per
// doubling, from one microsecond on.
const latencyBuckets = 16 * 28

func bucket(ns int64) int {
	if ns < 1000 {
		return 0
	}
	return min(int(16*math.Log2(float64(ns)/1000)), latencyBuckets-1)
}

// quantile returns the q-quantile of a histogram in milliseconds.
func quantile(h []uint32, q float64) float64 {
	total := uint64(0)
	for _, n := range h {
		total += uint64(n)
	}
	seen := uint64(0)
	for i, n := range h {
		if seen += uint64(n); seen > 0 && float64(seen) >= q*float64(total) {
			return math.Exp2((float64(i)+.5)/16) / 1000
		}
	}
	return 0
}
