package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// read counts the events that arrive, and samples how long they took.
func read(c net.Conn, r *bufio.Reader, client int, arrived *atomic.Int64, samples chan<- time.Duration, done chan<- struct{}) {
	defer func() { done <- struct{}{} }()
	buf := make([]byte, 0, 1024)
	for n := client; ; {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:2]); err != nil {
			return
		}
		size := int(head[1])
		if size == 126 {
			if _, err := io.ReadFull(r, head[2:]); err != nil {
				return
			}
			size = int(binary.BigEndian.Uint16(head[2:]))
		}
		if cap(buf) < size {
			buf = make([]byte, size)
		}
		buf = buf[:size]
		if _, err := io.ReadFull(r, buf); err != nil {
			return
		}
		if head[0] == 0x89 { // ping: answer with an empty, masked pong
			if _, err := c.Write([]byte{0x8A, 0x80, 0, 0, 0, 0}); err != nil {
				return
			}
		}
		i := bytes.Index(buf, []byte(`"at":`))
		if head[0] != 0x81 || i < 0 {
			continue // welcome, subscribed, freshness
		}
		arrived.Add(1)
		if n++; n%16 == 0 {
			digits := buf[i+len(`"at":`):]
			end := bytes.IndexByte(digits, ',')
			if at, err := strconv.ParseInt(string(digits[:end]), 10, 64); err == nil {
				samples <- time.Duration(time.Now().UnixNano() - at)
			}
		}
	}
}

// cpuTime is what a process has used, in user and system mode (proc(5)).
func cpuTime(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+2:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

// rss is a process's resident memory in KB.
func rss(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	kb, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, _ := strconv.ParseFloat(kb, 64)
	return n
}
