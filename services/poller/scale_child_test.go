package poller

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/pollcast/pollcast/services/poller/config"
)

// scaleChild, in the environment, makes the test binary another side of the scale
// benchmarks: the upstreams, a ticker, or else NATS, with its data in the
// directory it names. In processes of their own they count neither for the
// poller's CPU and memory nor for each other's punctuality.
const scaleChild = "POLLCAST_SCALE_CHILD"

const (
	scaleUpstreams = "upstreams"
	ticker         = "ticker" // it only waits for every beat, and says how late it was
)

// childReady is what the children say.
type childReady struct{ Upstream, NATS, Ticker string }

// runScaleChild says its address on its first line, and serves until standard
// input ends.
func runScaleChild(what string) error {
	var serve func() (string, func(), error)
	switch what {
	case scaleUpstreams:
		serve = func() (string, func(), error) { return serveHTTP(&arrivals{by: map[string]int{}}) }
	case ticker:
		serve = serveTicker
	default:
		serve = func() (string, func(), error) { return serveNATS(what) }
	}
	address, stop, err := serve()
	if err != nil {
		return err
	}
	fmt.Println(address)
	_, _ = os.Stdin.Read(make([]byte, 1)) // ends with the parent
	stop()
	return nil
}

func serveHTTP(h http.Handler) (address string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("listen: %w", err)
	}
	go func() { _ = http.Serve(l, h) }() // ends with the process
	return "http://" + l.Addr().String(), func() {}, nil
}

// serveTicker tells how late after a beat, in percent of the interval, it was at
// most since it was last asked: so late a process can be that does nothing else.
func serveTicker() (address string, stop func(), err error) {
	var worst atomic.Int64
	go func() { // ends with the process
		for due := time.Now(); ; due = due.Add(config.MaxBeat) {
			time.Sleep(time.Until(due))
			worst.Store(max(worst.Load(), int64(time.Since(due))))
		}
	}()
	return serveHTTP(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(seen{Latest: 100 * float64(worst.Swap(0)) / float64(scaleInterval)}) // the parent notices
	}))
}

func serveNATS(dir string) (address string, stop func(), err error) {
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	if err != nil {
		return "", nil, fmt.Errorf("make NATS: %w", err)
	}
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		return "", nil, fmt.Errorf("NATS is not ready within 10 s")
	}
	return srv.ClientURL(), func() { srv.Shutdown(); srv.WaitForShutdown() }, nil
}

// arrivals is the upstreams: it notes when each path was asked for, and answers
// with some 200 bytes that change every ten seconds. GET /look tells what it has
// seen, GET /seen tells and forgets.
type arrivals struct {
	mu   sync.Mutex
	seen seen
	by   map[string]int
}

// seen is what the upstreams saw of the polls.
type seen struct {
	Asked  int     // requests
	Paths  int     // different ones
	Fewest int     // requests for the path that was asked for least
	Late   []int   // requests by how long after their slot they came, in lateBin
	Latest float64 // percent of the interval
	First  []int64 // when each path was asked for first, in microseconds since 1970
}

// lateBin is a part of the interval, in percent.
const lateBin = 0.1

func (a *arrivals) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	w.Header().Set("Content-Type", "application/json")
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.URL.Path == "/look" || r.URL.Path == "/seen" {
		a.seen.Paths = len(a.by)
		if len(a.by) > 0 {
			a.seen.Fewest = slices.Min(slices.Collect(maps.Values(a.by)))
		}
		_ = json.NewEncoder(w).Encode(a.seen) // the parent notices
		if r.URL.Path == "/seen" {
			a.seen, a.by = seen{}, map[string]int{}
		}
		return
	}
	a.note(r.URL.Path, now)
	_, _ = fmt.Fprintf(w, `{"path":%q,"n":%d,"status":"everything is as it should be","load":[0.5,0.25,0.125],"disks":[{"name":"a","free":123456789},{"name":"b","free":987654321}],"labels":{"zone":"eu-1","tier":"gold"}}`,
		r.URL.Path, now.Unix()/10)
}

func (a *arrivals) note(path string, now time.Time) {
	slots, ok := slotsOf(path)
	if !ok {
		return
	}
	s := &a.seen
	if s.Late == nil {
		s.Late = make([]int, int(100/lateBin)+1)
	}
	late := 100 * float64(now.Sub(slots.Next(now.Add(-scaleInterval)))) / float64(scaleInterval)
	s.Asked++
	s.Late[int(late/lateBin)]++
	s.Latest = max(s.Latest, late)
	if a.by[path]++; a.by[path] == 1 {
		s.First = append(s.First, now.UnixMicro())
	}
}

// late is how late the given part of the requests came at most, in percent of
// the interval.
func (s seen) late(part float64) float64 {
	if part == 1 {
		return s.Latest
	}
	n := 0
	for bin, more := range s.Late {
		if n += more; float64(n) >= part*float64(s.Asked) {
			return float64(bin+1) * lateBin
		}
	}
	return 100
}

// later is the part of the requests that came later than the given percent of the
// interval.
func (s seen) later(percent float64) float64 {
	n := 0
	for bin, more := range s.Late {
		if float64(bin)*lateBin >= percent {
			n += more
		}
	}
	return float64(n) / float64(max(1, s.Asked))
}

// start says how the first requests came: when the last did, in intervals since
// began, and how many in the fullest 10 ms of the first interval, over the mean.
func (s seen) start(began time.Time) (last, herd float64) {
	bins, total := map[int64]int{}, 0
	for _, at := range s.First {
		since := time.Duration(at-began.UnixMicro()) * time.Microsecond
		last = max(last, float64(since)/float64(scaleInterval))
		if since < scaleInterval {
			bins[int64(since/(10*time.Millisecond))]++
			total++
		}
	}
	return last, float64(slices.Max(slices.Collect(maps.Values(bins)))) / float64(total) * float64(scaleInterval/(10*time.Millisecond))
}

// startScaleChild runs a child until the benchmark ends, and returns its address.
func startScaleChild(b *testing.B, what string) string {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), scaleChild+"="+what)
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
			b.Errorf("upstreams, ticker or NATS: %v", err)
		}
	})
	var address string
	if _, err := fmt.Fscanln(out, &address); err != nil {
		b.Fatalf("upstreams, ticker or NATS say nothing: %v", err)
	}
	return address
}

// look returns what the upstreams have seen since the last call of seen.
func (r childReady) look(b *testing.B) seen { return r.ask(b, r.Upstream+"/look") }

// seen returns it, and has them begin anew.
func (r childReady) seen(b *testing.B) seen { return r.ask(b, r.Upstream+"/seen") }

// stalled is how late the ticker was at most since the last call, in percent of
// the interval.
func (r childReady) stalled(b *testing.B) float64 { return r.ask(b, r.Ticker).Latest }

func (r childReady) ask(b *testing.B, address string) (s seen) {
	b.Helper()
	res, err := http.Get(address)
	if err != nil {
		b.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&s); err != nil {
		b.Fatal(err)
	}
	return s
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

func rssMB(b *testing.B) float64 {
	b.Helper()
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	var kb float64
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		b.Fatal(err)
	}
	return kb / 1024
}
