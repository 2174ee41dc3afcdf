package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/event"
)

func main() {
	kind := flag.String("serve", "", "run one server: gateway, floor or hub")
	url := flag.String("nats", "", "its NATS server")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := error(nil)
	if *kind != "" {
		err = serve(ctx, *kind, *url)
	} else {
		err = table(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// A work is one row: events to clients, in bursts, each burst when the one
// before has arrived everywhere (closed loop) or at a rate.
type work struct {
	name           string
	clients, burst int
	bursts         int
	every          time.Duration // 0: closed loop
}

var works = []work{
	{"1 event to 1,000, closed loop", 1000, 1, 2000, 0},
	{"bursts of 64 to 1,000", 1000, 64, 100, 0},
	{"1,000 at 100 events/s", 1000, 1, 1000, 10 * time.Millisecond},
	{"5,000 at 5 events/s", 5000, 1, 50, 200 * time.Millisecond},
}

func table(ctx context.Context) error {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err == nil {
		lim.Cur = lim.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim) // 5,000 clients then say what is missing
	}
	fmt.Printf("%-32s %-8s %12s %10s %10s %12s\n", "work", "server", "CPU/frame us", "p50 ms", "p99 ms", "RSS/idle KB")
	for _, w := range works {
		for _, kind := range []string{"floor", "hub", "gateway"} {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r, err := run(ctx, kind, w)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", w.name, kind, err)
			}
			fmt.Printf("%-32s %-8s %12.2f %10.2f %10.2f %12.1f\n", w.name, kind, r.cpu, r.p50, r.p99, r.rss)
		}
	}
	return nil
}

type result struct{ cpu, p50, p99, rss float64 }

func run(ctx context.Context, kind string, w work) (result, error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return result{}, err
	}
	defer os.RemoveAll(dir)
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	if err != nil {
		return result{}, err
	}
	ns.Start()
	defer func() { ns.Shutdown(); ns.WaitForShutdown() }()
	if !ns.ReadyForConnections(10 * time.Second) {
		return result{}, fmt.Errorf("NATS is not ready")
	}
	nc, err := nats.Connect(ns.ClientURL())
	if err != nil {
		return result{}, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return result{}, err
	}
	names, err := bus.NewNames("")
	if err != nil {
		return result{}, err
	}
	if _, err := bus.EnsureStream(ctx, js, names, bus.DefaultConfig()); err != nil {
		return result{}, err
	}

	cmd := exec.CommandContext(ctx, os.Args[0], "-serve", kind, "-nats", ns.ClientURL())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return result{}, err
	}
	if err := cmd.Start(); err != nil {
		return result{}, err
	}
	defer func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() }() // it is thrown away
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return result{}, fmt.Errorf("the server does not start: %w", err)
	}
	addr := strings.TrimSpace(line)

	total := w.burst * w.bursts
	var arrived atomic.Int64
	var conns []net.Conn
	lat := make([]time.Duration, 0, w.clients*total/16+1)
	samples := make(chan time.Duration, 1<<16)
	collected := make(chan struct{})
	go func() {
		defer close(collected)
		for d := range samples {
			lat = append(lat, d)
		}
	}()
	before := 0.0
	done := make(chan struct{}, w.clients)
	for i := range w.clients {
		c, r, err := connect(ctx, addr)
		if err != nil {
			return result{}, err
		}
		conns = append(conns, c)
		if i == 0 {
			time.Sleep(200 * time.Millisecond)
			before = rss(cmd.Process.Pid)
		}
		go read(c, r, i, &arrived, samples, done)
	}
	time.Sleep(time.Second)
	res := result{rss: (rss(cmd.Process.Pid) - before) / float64(w.clients)}
	data := json.RawMessage(`{"pad":"` + strings.Repeat("x", 20) + `"}`)
	cpu := cpuTime(cmd.Process.Pid)
	start := time.Now()
	version := uint64(0)
	for b := range w.bursts {
		for range w.burst {
			version++
			now := time.Now().UTC()
			e := &event.Event{Topic: "bench.x", Poll: "bench.x", Data: json.RawMessage(fmt.Sprintf(`{"at":%d,"pad":%s}`, now.UnixNano(), data)), Version: version, ChangedAt: now, AsOf: now}
			m := names.EventMsg(e, time.Unix(0, int64(version)*1e6))
			if kind != "gateway" {
				// The baselines forward what they get: give them frames of the size that
				// the gateway's have.
				m.Data = append(m.Data[:len(m.Data)-1], []byte(`,"fill":"`+strings.Repeat("y", 150)+`"}`)...)
			}
			if _, err := js.PublishMsgAsync(m); err != nil {
				return result{}, err
			}
		}
		if w.every > 0 {
			time.Sleep(time.Until(start.Add(time.Duration(b+1) * w.every)))
			continue
		}
		want := int64((b + 1) * w.burst * w.clients)
		for end := time.Now().Add(30 * time.Second); arrived.Load() < want; time.Sleep(50 * time.Microsecond) {
			if time.Now().After(end) {
				return result{}, fmt.Errorf("%d of %d frames arrived", arrived.Load(), want)
			}
		}
	}
	for end := time.Now().Add(30 * time.Second); arrived.Load() < int64(total*w.clients); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return result{}, fmt.Errorf("%d of %d frames arrived", arrived.Load(), total*w.clients)
		}
	}
	res.cpu = float64(cpuTime(cmd.Process.Pid)-cpu) / float64(time.Microsecond) / float64(total*w.clients)
	for _, c := range conns {
		c.Close()
	}
	for range conns {
		<-done
	}
	close(samples)
	<-collected
	slices.Sort(lat)
	if len(lat) > 0 {
		ms := func(q float64) float64 {
			return float64(lat[int(q*float64(len(lat)-1))]) / float64(time.Millisecond)
		}
		res.p50, res.p99 = ms(.5), ms(.99)
	}
	return res, nil
}

// connect waits for a server that is not ready yet.
func connect(ctx context.Context, addr string) (net.Conn, *bufio.Reader, error) {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, r, err := dial(addr)
		if err == nil || time.Now().After(end) || ctx.Err() != nil {
			return c, r, err
		}
	}
}
