//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/event"
)

// kinds are the servers of a contest. The floor is the first.
var kinds = []string{"floor", "hub", "gateway"}

// settle is the pause before the memory of idle clients is read.
const settle = 8 * time.Second

// contest measures one row: three servers with their clients, one after another.
func contest(ctx context.Context, r row, o options) (outcome, error) {
	ns, stop, err := startNATS()
	if err != nil {
		return outcome{}, err
	}
	defer stop()
	out := outcome{row: r, servers: make([]figures, len(kinds))}
	var all []*contestant
	defer func() {
		for _, c := range all {
			c.stop()
		}
	}()
	for i, kind := range kinds {
		c, err := enter(ctx, ns, kind, "bench"+kind)
		if err != nil {
			return out, fmt.Errorf("%s: %w", kind, err)
		}
		all = append(all, c)
		// The first client makes the server allocate what it needs once.
		if _, err := c.do(task{Addr: c.addr, Dial: 1, Sets: r.sets}); err != nil {
			return out, fmt.Errorf("%s: %w", kind, err)
		}
		before := rss(c.server.Process.Pid)
		if _, err := c.do(task{Addr: c.addr, Dial: r.clients - 1, Sets: r.sets}); err != nil {
			return out, fmt.Errorf("%s: %w", kind, err)
		}
		if r.rss > 0 {
			sleep(ctx, settle)
			out.servers[i].rss = (rss(c.server.Process.Pid) - before) / float64(r.clients-1)
		}
	}
	turns := make([][]figures, len(kinds)) // by kind, then round
	for round := range o.rounds + 1 {
		for k := range kinds {
			i := (k + round) % len(kinds)
			f, err := all[i].turn(r)
			if err != nil {
				return out, fmt.Errorf("%s: %w", kinds[i], err)
			}
			if round > 0 { // the first warms up
				turns[i] = append(turns[i], f)
			}
		}
	}
	for i := range kinds {
		out.servers[i] = medians(turns[i], turns[0], out.servers[i].rss)
	}
	return out, nil
}

// figures are the costs of one turn of a server, or the medians of its turns.
// The fields that end with Over are the medians of the ratios to the floor's.
type figures struct {
	cpu              float64 // microseconds per frame
	rate             float64 // frames per second
	size             float64 // bytes per frame
	p50, p99, p999   float64 // milliseconds
	rss              float64 // KB per client
	cpuOver, p99Over float64
}

func medians(turns, floor []figures, rss float64) figures {
	median := func(get func(i int) float64) float64 {
		v := make([]float64, len(turns))
		for i := range turns {
			v[i] = get(i)
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	return figures{
		cpu:     median(func(i int) float64 { return turns[i].cpu }),
		rate:    median(func(i int) float64 { return turns[i].rate }),
		size:    median(func(i int) float64 { return turns[i].size }),
		p50:     median(func(i int) float64 { return turns[i].p50 }),
		p99:     median(func(i int) float64 { return turns[i].p99 }),
		p999:    median(func(i int) float64 { return turns[i].p999 }),
		rss:     rss,
		cpuOver: median(func(i int) float64 { return turns[i].cpu / floor[i].cpu }),
		p99Over: median(func(i int) float64 { return turns[i].p99 / floor[i].p99 }),
	}
}

// contestant is a server and its clients.
type contestant struct {
	kind   string
	addr   string
	server *exec.Cmd
	driver *exec.Cmd
	to     io.WriteCloser
	from   *json.Decoder
}

// enter starts a server and the process of its clients, on a stream of their own.
func enter(ctx context.Context, ns *server.Server, kind, prefix string) (*contestant, error) {
	if _, _, err := stream(ctx, ns, prefix); err != nil {
		return nil, err
	}
	c := &contestant{kind: kind}
	var err error
	if c.server, c.addr, _, err = startServer(ctx, ns, kind, prefix); err != nil {
		return nil, err
	}
	c.driver = exec.CommandContext(ctx, os.Args[0], "-drive", "-nats", ns.ClientURL(), "-prefix", prefix)
	c.driver.Stderr = os.Stderr
	if c.to, err = c.driver.StdinPipe(); err == nil {
		var out io.Reader
		if out, err = c.driver.StdoutPipe(); err == nil {
			c.from = json.NewDecoder(out)
			err = c.driver.Start()
		}
	}
	if err != nil {
		end(c.server)
		return nil, fmt.Errorf("start the clients: %w", err)
	}
	return c, nil
}

func (c *contestant) stop() {
	end(c.server)
	_ = c.to.Close() // the driver ends with its standard input
	_ = c.driver.Wait()
}

func end(cmd *exec.Cmd) {
	_ = cmd.Process.Signal(syscall.SIGTERM) // fails only when it has ended
	_ = cmd.Wait()
}

// do sends a task to the clients' process and waits for its result.
func (c *contestant) do(t task) (turn, error) {
	if err := json.NewEncoder(c.to).Encode(t); err != nil {
		return turn{}, err
	}
	var out turn
	if err := c.from.Decode(&out); err != nil {
		return out, fmt.Errorf("the clients ended: %w", err)
	}
	if out.Error != "" {
		return out, errors.New(out.Error)
	}
	return out, nil
}

// turn measures one turn of a row.
func (c *contestant) turn(r row) (figures, error) {
	cpu := cpuTime(c.server.Process.Pid)
	t, err := c.do(task{Burst: r.burst, Bursts: r.bursts, Every: r.every, Framed: c.kind != "gateway"})
	if err != nil {
		return figures{}, err
	}
	cpu = cpuTime(c.server.Process.Pid) - cpu
	n := float64(t.Frames)
	return figures{
		cpu: float64(cpu) / float64(time.Microsecond) / n, rate: n / t.Wall.Seconds(), size: float64(t.Bytes) / n,
		p50: quantile(t.Late, .5), p99: quantile(t.Late, .99), p999: quantile(t.Late, .999),
	}, nil
}

// startNATS starts a NATS server; stop ends it and removes its files.
func startNATS() (ns *server.Server, stop func(), err error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, nil, err
	}
	ns, err = server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
	})
	if err != nil {
		os.RemoveAll(dir)
		return nil, nil, err
	}
	ns.Start()
	stop = func() {
		ns.Shutdown()
		ns.WaitForShutdown()
		os.RemoveAll(dir)
	}
	if !ns.ReadyForConnections(10 * time.Second) {
		stop()
		return nil, nil, errors.New("NATS is not ready")
	}
	return ns, stop, nil
}

// stream makes a stream with one poll, which stays fresh for an hour.
func stream(ctx context.Context, ns *server.Server, prefix string) (jetstream.JetStream, bus.Names, error) {
	names, err := bus.NewNames(prefix)
	if err != nil {
		return nil, names, err
	}
	nc, err := nats.Connect(ns.ClientURL()) // until the server stops
	if err != nil {
		return nil, names, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, names, err
	}
	cfg := bus.DefaultConfig()
	cfg.Prefix = prefix
	if _, err := bus.EnsureStream(ctx, js, names, cfg); err != nil {
		return nil, names, err
	}
	now := time.Now().UTC()
	m, err := names.FreshMsg(&event.Freshness{
		Poll: "bench.p", AsOf: now, CheckedAt: now, Breaker: event.Closed,
		IntervalMs: time.Second.Milliseconds(), MaxAgeMs: time.Hour.Milliseconds(), Fence: 1,
	}, nil)
	if err != nil {
		return nil, names, err
	}
	_, err = js.PublishMsg(ctx, m)
	return js, names, err
}

// startServer starts a server as a process and waits until it is ready.
func startServer(
	ctx context.Context, ns *server.Server, kind, prefix string,
) (cmd *exec.Cmd, addr string, took time.Duration, err error) {
	cmd = exec.CommandContext(ctx, os.Args[0], "-serve", kind, "-nats", ns.ClientURL(), "-prefix", prefix)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", 0, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, "", 0, err
	}
	lines := bufio.NewReader(out)
	addr, err = lines.ReadString('\n')
	if err == nil {
		_, err = lines.ReadString('\n')
	}
	if err != nil {
		end(cmd)
		return nil, "", 0, fmt.Errorf("the server does not start: %w", err)
	}
	return cmd, strings.TrimSpace(addr), time.Since(start), nil
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// cpuTime returns the CPU time of a process in user and system mode (proc(5)).
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

// rss returns a process's resident memory in KB.
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
