//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
)

const (
	walkPolls    = 20
	walkInterval = 200 * time.Millisecond
	walkTurn     = 4 * time.Second
)

// walk measures the whole walk, each part in a process of its own: an upstream
// that answers with the time, a poller, NATS, a gateway, and clients. The measured
// time begins before the poller has the answer and ends when the client has read
// the frame, so that it is never too short.
func walk(ctx context.Context, r row, o options) (outcome, error) {
	ns, stop, err := startNATS()
	if err != nil {
		return outcome{}, err
	}
	defer stop()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return outcome{}, err
	}
	upstream := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"at":"%c%d","pad":"xxxxxxxxxxxxxxxxxxxx"}`, mark, time.Now().UnixNano())
	})}
	go upstream.Serve(ln)
	defer upstream.Close()

	const prefix = "benchwalk"
	c, err := enter(ctx, ns, "gateway", prefix)
	if err != nil {
		return outcome{}, err
	}
	defer c.stop()
	poller, err := startPoller(ctx, o.poller, ns.ClientURL(), prefix, "http://"+ln.Addr().String()+"/")
	if err != nil {
		return outcome{}, err
	}
	defer end(poller)
	if _, err := c.do(task{Addr: c.addr, Dial: r.clients}); err != nil {
		return outcome{}, err
	}
	var turns []figures
	for round := range o.rounds + 1 {
		cpu := cpuTime(c.server.Process.Pid)
		t, err := c.do(task{Listen: walkTurn})
		if err != nil {
			return outcome{}, err
		}
		if round == 0 {
			continue
		}
		cpu = cpuTime(c.server.Process.Pid) - cpu
		n := float64(t.Frames)
		turns = append(turns, figures{
			cpu: float64(cpu) / float64(time.Microsecond) / n, rate: n / t.Wall.Seconds(), size: float64(t.Bytes) / n,
			p50: quantile(t.Late, .5), p99: quantile(t.Late, .99), p999: quantile(t.Late, .999),
		})
	}
	f := medians(turns, turns, 0)
	return outcome{row: r, servers: []figures{f}, ms: f.p99}, nil
}

func startPoller(ctx context.Context, program, natsURL, prefix, upstream string) (*exec.Cmd, error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // the poller reads it once, at its start
	var b strings.Builder
	fmt.Fprintf(&b, "nats: {url: %q, prefix: %s}\n", natsURL, prefix)
	fmt.Fprintf(&b, "poller:\n  operations: 127.0.0.1:0\n  sources:\n    bench:\n")
	fmt.Fprintf(&b, "      driver: http\n      upstreams: [%q]\n      polls:\n", upstream)
	for i := range walkPolls {
		fmt.Fprintf(&b, "        walk.k%d: {interval: %v}\n", i, walkInterval)
	}
	file := filepath.Join(dir, "poller.yaml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, program, "-config", file, "-check").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", program, err, out)
	}
	cmd := exec.CommandContext(ctx, program, "-config", file, "-set", "log.level=warn")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	sleep(ctx, 2*time.Second) // until it holds the source's lease
	return cmd, nil
}

// ready measures the time from a gateway's start until it is ready, on a stream
// that holds many topics.
func ready(ctx context.Context, r row, o options) (outcome, error) {
	ns, stop, err := startNATS()
	if err != nil {
		return outcome{}, err
	}
	defer stop()
	const prefix = "benchready"
	js, names, err := stream(ctx, ns, prefix)
	if err != nil {
		return outcome{}, err
	}
	now := time.Now().UTC()
	for i := range manyTopics {
		e := &event.Event{
			Topic: topicName(i), Poll: "bench.p", Key: fmt.Sprintf("k%d", i),
			Version: 1, ChangedAt: now, AsOf: now, Fence: 1,
			Data: fmt.Appendf(nil, `{"n":%d,"pad":"%s"}`, i, strings.Repeat("x", 200)),
		}
		if _, err := js.PublishMsgAsync(names.EventMsg(e, now)); err != nil {
			return outcome{}, err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		return outcome{}, ctx.Err()
	}
	var took []float64
	for range o.rounds {
		cmd, _, d, err := startServer(ctx, ns, "gateway", prefix)
		if err != nil {
			return outcome{}, err
		}
		end(cmd)
		took = append(took, float64(d)/float64(time.Millisecond))
	}
	slices.Sort(took)
	return outcome{row: r, ms: took[len(took)/2]}, nil
}
