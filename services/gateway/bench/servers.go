//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/pprof"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
	"github.com/nats-io/nats.go"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/services/gateway"
	"github.com/prometheus/client_golang/prometheus"
)

// serve runs one of the servers until ctx ends. It prints its address first,
// and "ready" when it can serve. PROFILE=file writes a profile of its CPU time.
func serve(ctx context.Context, kind, natsURL, prefix string) error {
	if err := manyFiles(); err != nil {
		return err
	}
	if name := os.Getenv("PROFILE"); name != "" {
		f, err := os.Create(name + "." + kind)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	if kind == "gateway" {
		return serveGateway(ctx, natsURL, prefix)
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
	var b baseline = &floor{clients: map[string][]syscall.RawConn{}}
	if kind == "hub" {
		b = &hub{clients: map[string][]chan []byte{}}
	}
	live := prefix + ".live."
	_, err = nc.Subscribe(live+"bench.>", func(m *nats.Msg) {
		if !strings.HasSuffix(m.Subject, "._fresh") {
			b.send(m.Subject[len(live):], m.Data)
		}
	})
	if err != nil {
		return err
	}
	up := websocket.Upgrader{ReadBufferSize: 256, WriteBufferSize: 512}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		topics := strings.Split(r.URL.Query().Get("topics"), ",")
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		b.add(ws, topics)
		go func() { // the reader that every server must have
			for {
				if _, _, err := ws.NextReader(); err != nil {
					return
				}
			}
		}()
	})}
	fmt.Printf("%s\nready\n", ln.Addr())
	go srv.Serve(ln)
	<-ctx.Done()
	return srv.Close()
}

func serveGateway(ctx context.Context, natsURL, prefix string) error {
	cfg := gateway.DefaultConfig()
	cfg.Listen, cfg.Operations, cfg.DrainTime, cfg.AcceptRate = "127.0.0.1:0", "", 0, 100_000
	natsConfig := bus.DefaultConfig()
	natsConfig.URL, natsConfig.Prefix = natsURL, prefix
	g, err := gateway.New(gateway.Options{
		Config: cfg, NATS: natsConfig, Registry: prometheus.NewRegistry(),
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		return err
	}
	fmt.Println(g.Addr())
	go func() {
		for g.Ready() != nil && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		fmt.Println("ready")
	}()
	return g.Run(ctx)
}

// baseline is a server that sends every event at once to the topic's clients.
type baseline interface {
	add(ws *websocket.Conn, topics []string)
	send(topic string, payload []byte)
}

// everybody is the topic of a client that receives every event.
const everybody = "bench.>"

// floor does one write(2) per client and event, and nothing else.
type floor struct {
	mu      sync.Mutex
	clients map[string][]syscall.RawConn
}

func (f *floor) add(ws *websocket.Conn, topics []string) {
	raw, err := ws.NetConn().(*net.TCPConn).SyscallConn()
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range topics {
		f.clients[t] = append(f.clients[t], raw)
	}
}

func (f *floor) send(topic string, payload []byte) {
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
	for _, t := range []string{everybody, topic} {
		for _, raw := range f.clients[t] {
			_ = raw.Write(write) // a client that has gone does not matter here
		}
	}
}

// hub is the textbook's design: a buffered channel and a write pump per client.
type hub struct {
	mu      sync.Mutex
	clients map[string][]chan []byte
}

func (h *hub) add(ws *websocket.Conn, topics []string) {
	pump := make(chan []byte, 256)
	h.mu.Lock()
	for _, t := range topics {
		h.clients[t] = append(h.clients[t], pump)
	}
	h.mu.Unlock()
	go func() {
		for payload := range pump {
			if ws.WriteMessage(websocket.TextMessage, payload) != nil {
				return
			}
		}
	}()
}

func (h *hub) send(topic string, payload []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range []string{everybody, topic} {
		for _, pump := range h.clients[t] {
			pump <- payload // waits and does not drop: every server delivers everything
		}
	}
}
