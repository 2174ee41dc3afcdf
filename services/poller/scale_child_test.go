package poller

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// scaleChild, in the environment, makes the test binary the other side of the
// scale benchmarks: NATS, with its data in the directory it names, and upstreams.
// In a process of their own they do not count for the poller's CPU and memory.
const scaleChild = "POLLCAST_SCALE_CHILD"

// childReady is what the child says on its first line.
type childReady struct{ Upstream, NATS string }

// runScaleChild serves until standard input ends.
func runScaleChild(dir string) error {
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	if err != nil {
		return fmt.Errorf("make NATS: %w", err)
	}
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		return fmt.Errorf("NATS is not ready within 10 s")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	up := &arrivals{at: map[string][]int64{}}
	go func() { _ = http.Serve(l, up) }() // ends with the process
	if err := json.NewEncoder(os.Stdout).Encode(childReady{"http://" + l.Addr().String(), srv.ClientURL()}); err != nil {
		return err
	}
	_, _ = os.Stdin.Read(make([]byte, 1)) // ends with the parent
	srv.Shutdown()
	srv.WaitForShutdown()
	return nil
}

// arrivals is the upstreams: it notes when each path was asked for, and answers
// with some 200 bytes that change every ten seconds. GET /arrivals tells and
// forgets.
type arrivals struct {
	mu sync.Mutex
	at map[string][]int64 // unix microseconds
}

func (a *arrivals) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	w.Header().Set("Content-Type", "application/json")
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.URL.Path == "/arrivals" {
		_ = json.NewEncoder(w).Encode(a.at) // the parent notices
		a.at = map[string][]int64{}
		return
	}
	a.at[r.URL.Path] = append(a.at[r.URL.Path], now.UnixMicro())
	_, _ = fmt.Fprintf(w, `{"path":%q,"n":%d,"status":"everything is as it should be","load":[0.5,0.25,0.125],"disks":[{"name":"a","free":123456789},{"name":"b","free":987654321}],"labels":{"zone":"eu-1","tier":"gold"}}`,
		r.URL.Path, now.Unix()/10)
}

// startScaleChild runs the child until the benchmark ends.
func startScaleChild(b *testing.B) childReady {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), scaleChild+"="+b.TempDir())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			b.Errorf("upstreams and NATS: %v", err)
		}
	})
	var ready childReady
	if err := json.NewDecoder(out).Decode(&ready); err != nil {
		b.Fatalf("upstreams and NATS say nothing: %v", err)
	}
	return ready
}

// told returns when each path was asked for since the last call.
func (r childReady) told(b *testing.B) map[string][]int64 {
	b.Helper()
	res, err := http.Get(r.Upstream + "/arrivals")
	if err != nil {
		b.Fatal(err)
	}
	defer res.Body.Close()
	var at map[string][]int64
	if err := json.NewDecoder(res.Body).Decode(&at); err != nil {
		b.Fatal(err)
	}
	return at
}

// cpu is what this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
