package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"

	"github.com/gorilla/websocket"
	"github.com/nats-io/nats.go"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/services/gateway"
	"github.com/prometheus/client_golang/prometheus"
)

// serve runs one of the servers until ctx ends. It prints its address first.
func serve(ctx context.Context, kind, natsURL string) error {
	if kind == "gateway" {
		cfg := gateway.DefaultConfig()
		cfg.Listen, cfg.Operations = "127.0.0.1:0", ""
		natsConfig := bus.DefaultConfig()
		natsConfig.URL = natsURL
		g, err := gateway.New(gateway.Options{
			Config: cfg, NATS: natsConfig, Registry: prometheus.NewRegistry(),
			Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		})
		if err != nil {
			return err
		}
		fmt.Println(g.Addr())
		return g.Run(ctx)
	}
	nc, err := nats.Connect(natsURL)
	if err != nil {
		return err
	}
	defer nc.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var b baseline = new(floor)
	if kind == "hub" {
		b = new(hub)
	}
	if _, err := nc.Subscribe("pollcast.live.bench.>", func(m *nats.Msg) { b.tell(m.Data) }); err != nil {
		return err
	}
	up := websocket.Upgrader{ReadBufferSize: 256, WriteBufferSize: 512}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		b.add(ws)
		go func() { // the reader that every server must have
			for {
				if _, _, err := ws.NextReader(); err != nil {
					return
				}
			}
		}()
	})}
	fmt.Println(ln.Addr())
	go srv.Serve(ln)
	<-ctx.Done()
	return srv.Close()
}

type baseline interface {
	add(*websocket.Conn)
	tell(payload []byte)
}

// floor is one write(2) per client and event, and nothing else.
type floor struct {
	mu  sync.Mutex
	raw []syscall.RawConn
}

func (f *floor) add(ws *websocket.Conn) {
	raw, err := ws.NetConn().(*net.TCPConn).SyscallConn()
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.raw = append(f.raw, raw)
}

func (f *floor) tell(payload []byte) {
	frame := append([]byte{0x81, 126, byte(len(payload) >> 8), byte(len(payload))}, payload...)
	f.mu.Lock()
	defer f.mu.Unlock()
	write := func(fd uintptr) bool {
		for at := 0; at < len(frame); {
			n, err := syscall.Write(int(fd), frame[at:])
			if err == syscall.EAGAIN {
				continue
			}
			if err != nil {
				return true
			}
			at += n
		}
		return true
	}
	for _, raw := range f.raw {
		_ = raw.Write(write) // a client that left is none of the benchmark's
	}
}

// hub is the textbook's: a buffered channel and a write pump per client.
type hub struct {
	mu    sync.Mutex
	pumps []chan []byte
}

func (h *hub) add(ws *websocket.Conn) {
	pump := make(chan []byte, 256)
	h.mu.Lock()
	h.pumps = append(h.pumps, pump)
	h.mu.Unlock()
	go func() {
		for payload := range pump {
			if ws.WriteMessage(websocket.TextMessage, payload) != nil {
				return
			}
		}
	}()
}

func (h *hub) tell(payload []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, pump := range h.pumps {
		pump <- payload // waits rather than drops: every server delivers everything
	}
}

// dial makes a bare client connection: the handshake, and then frames to read.
func dial(addr string) (net.Conn, *bufio.Reader, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	_, err = io.WriteString(c, "GET /v1/ws?topics=bench.> HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
	if err != nil {
		return nil, nil, err
	}
	r := bufio.NewReaderSize(c, 4096)
	for line := "-"; line != "\r\n"; {
		if line, err = r.ReadString('\n'); err != nil {
			return nil, nil, err
		}
		if strings.HasPrefix(line, "HTTP/1.1 ") && !strings.HasPrefix(line, "HTTP/1.1 101") {
			return nil, nil, fmt.Errorf("handshake: %s", strings.TrimSpace(line))
		}
	}
	return c, r, nil
}
