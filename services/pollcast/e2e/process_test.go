package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// patience is the longest time that a test waits. It is reached only by a test
// that fails.
const patience = 20 * time.Second

// endTime is how long a service may take to end cleanly.
const endTime = 5 * time.Second

// command is what to run.
type command struct {
	name string // in messages
	bin  string
	args []string
	env  []string // added to the test's own
	// rough means that it need not end cleanly when the test ends.
	rough bool
}

// process is a running command. It has its own process group and ends with its
// test.
type process struct {
	t              testing.TB
	command        command
	cmd            *exec.Cmd
	stdout, stderr *output
	started        time.Time
	ended          chan struct{} // closed when it has ended
}

// run starts a command. When the test ends, a process that still runs gets
// SIGTERM and must end cleanly. If the test has failed, its output is shown.
func run(t testing.TB, c command) *process {
	t.Helper()
	p := &process{t: t, command: c, stdout: new(output), stderr: new(output), ended: make(chan struct{})}
	p.cmd = exec.Command(c.bin, c.args...)
	p.cmd.Env = append(cleanEnv(), c.env...)
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	p.cmd.SysProcAttr = ownGroup()
	p.cmd.WaitDelay = time.Second
	p.started = time.Now()
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", c.name, err)
	}
	go func() {
		_ = p.cmd.Wait() // ProcessState has the result
		close(p.ended)
	}()
	t.Cleanup(func() {
		if p.running() {
			p.signal(syscall.SIGCONT) // it may be stopped
			if c.rough {
				p.kill()
			} else if code := p.end(syscall.SIGTERM); code != 0 {
				t.Errorf("%s ended with exit code %d after SIGTERM, want 0", c.name, code)
			}
		}
		if t.Failed() {
			t.Logf("---- %s (%s, %v) ----\n%s", c.name, p.cmd.ProcessState, time.Since(p.started).Round(time.Millisecond),
				tail(p.logs(), 60))
		}
	})
	return p
}

// cleanEnv returns the environment without Pollcast's settings.
func cleanEnv() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "POLLCAST_") && !strings.HasPrefix(v, "NATS_") && !strings.HasPrefix(v, "HTTP_PROXY=") &&
			!strings.HasPrefix(v, "http_proxy=") {
			env = append(env, v)
		}
	}
	return env
}

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// signal sends to the whole group of a running process.
func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if !p.running() {
		p.t.Fatalf("%s has ended (%s) before it was sent %v\n%s", p.command.name, p.cmd.ProcessState, s, tail(p.logs(), 30))
	}
	if err := syscall.Kill(-p.cmd.Process.Pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		p.t.Errorf("send %v to %s: %v", s, p.command.name, err)
	}
}

// kill sends SIGKILL and returns when the process has ended.
func (p *process) kill() {
	p.t.Helper()
	p.signal(syscall.SIGKILL)
	<-p.ended
}

// end sends a signal and returns the exit code; -1 if the process did not end in
// time and was killed.
func (p *process) end(s syscall.Signal) int {
	p.t.Helper()
	p.signal(s)
	return p.wait(endTime)
}

// wait returns the exit code of a process that ends within a time, by itself or
// after a signal.
func (p *process) wait(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		p.signal(syscall.SIGQUIT) // Go programs print their goroutines
		select {
		case <-p.ended:
		case <-time.After(time.Second):
			p.kill()
		}
		p.t.Errorf("%s did not end within %v", p.command.name, within)
		return -1
	}
}

// logs returns everything that it wrote so far.
func (p *process) logs() string { return p.stdout.String() + p.stderr.String() }

// output keeps what a process wrote, up to a bound.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

const maxOutput = 16 << 20

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.b.Len() < maxOutput {
		o.b.Write(p)
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	if len(all) > lines {
		all = append([]string{fmt.Sprintf("… %d lines before …", len(all)-lines)}, all[len(all)-lines:]...)
	}
	return strings.Join(all, "\n")
}

// eventually tries until there is no error. It fails the test with the last
// error.
func eventually(t testing.TB, what string, try func() error) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s: %v", patience, what, err)
		}
	}
}

var lastPort atomic.Int64

func init() { lastPort.Store(rand.Int64N(portCount)) }

// The ports are below those of outgoing connections (from 32768 on), so that a
// restarted service finds its port free.
const (
	firstPort = 20000
	portCount = 12000
)

// freeAddr returns a loopback address on which nothing listens, a new one at
// every call. It keeps the UDP port of the same number until the test ends, so
// that other test processes on this machine choose other ports.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 500 {
		addr := fmt.Sprintf("127.0.0.1:%d", firstPort+lastPort.Add(1)%portCount)
		claim, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			claim.Close()
			continue
		}
		ln.Close()
		t.Cleanup(func() { claim.Close() })
		return addr
	}
	t.Fatal("no free port")
	return ""
}
