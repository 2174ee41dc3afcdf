package e2e

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestStorm runs storm with few clients and without a time limit.
func TestStorm(t *testing.T) {
	t.Parallel()
	storm(t, 1000, 2*time.Minute)
}

// storm connects clients to one gateway, which is stopped and killed. All
// reconnect at once to another that has just started, nine of ten with their
// position, one of ten from the start. In the end each must have every event. For
// those without a position the gateway must not exceed its accept rate. It must
// not read the stream back for more than a few of the others. storm returns the
// time until all were connected.
func storm(t *testing.T, clients int, within time.Duration) time.Duration {
	s := newStack(t, "    s: {upstreams: [\"http://127.0.0.1:1/\"], polls: {p: {method: p}}}\n")
	s.nats.start()
	pub := s.nats.publisher(10_000)
	first := s.gateway()
	first.ready()
	for i := range stormTopics {
		pub.event(fmt.Sprintf("storm.n%d", i), "0")
	}
	addr := freeAddr(t) // the second gateway's
	all := make([]*stormClient, clients)
	var running sync.WaitGroup
	var back, resumed atomic.Int64
	other := make(chan struct{}) // closed when the first gateway has ended
	stop := make(chan struct{})
	end := sync.OnceFunc(func() {
		close(stop)
		for _, c := range all {
			c.stop()
		}
		running.Wait()
	})
	defer end()
	var ready sync.WaitGroup
	ready.Add(clients)
	for i := range all {
		c := &stormClient{forget: i%10 == 9}
		all[i] = c
		running.Go(func() {
			defer func() {
				if c.err != nil {
					t.Errorf("client %d: %v", i, c.err)
				}
			}()
			c.live(first.addr, sync.OnceFunc(ready.Done), other)
			if c.forget {
				c.epoch = ""
			}
			c.live(addr, sync.OnceFunc(func() {
				back.Add(1)
				if c.resumed {
					resumed.Add(1)
				}
			}), stop)
		})
	}
	ready.Wait()
	published := 0
	publish := func() {
		pub.event(fmt.Sprintf("storm.n%d", published%stormTopics), strconv.Itoa(published))
		published++
	}
	for range 50 {
		publish()
	}
	first.signal(syscall.SIGSTOP) // a gateway may hang before it is killed
	for range 50 {
		publish()
	}
	second := s.gatewayAt(addr) // it did not receive these events live: it must read them back
	second.ready()
	before := metric(second, "pollcast_gateway_snapshots_total")
	cpu, ownCPU := metric(second, "process_cpu_seconds_total"), usedCPU()
	start := time.Now()
	close(other)
	first.kill()
	for back.Load() < int64(clients) {
		if time.Since(start) > within || t.Failed() {
			end()
			t.Fatalf("after %v %d of %d are back", within, back.Load(), clients)
		}
		publish()
		time.Sleep(10 * time.Millisecond)
	}
	took := time.Since(start)
	ownCPU, cpu = usedCPU()-ownCPU, metric(second, "process_cpu_seconds_total")-cpu
	took10 := int(took/(100*time.Millisecond)) + 1
	if taken := int(metric(second, "pollcast_gateway_snapshots_total") - before); taken < 1 || taken > took10 {
		t.Errorf("%d snapshots of one pattern in %v, want one at most every 100 ms", taken, took)
	}
	reads := metric(second, "pollcast_gateway_readbacks_total")
	if reads < 1 || reads > 1+2*took.Seconds() {
		t.Errorf("the stream was read back %v times in %v, want twice a second at most", reads, took)
	}
	if want := int64(clients - clients/10); resumed.Load() != want {
		t.Errorf("%d clients resumed, want %d", resumed.Load(), want)
	}
	last := pub.event("storm.last", `"last"`)
	for i, c := range all {
		eventually(t, fmt.Sprintf("client %d has the last event", i), func() error {
			if c.seq.Load() < last {
				return fmt.Errorf("it is at %d, want %d", c.seq.Load(), last)
			}
			return nil
		})
	}
	end()
	t.Logf("%d clients were back after %v, %.0f refused and asked again; %d events meanwhile; "+
		"the stream was read back %v times; CPU %.1f s of the gateway, %.1f s of the clients",
		clients, took.Round(time.Millisecond), metric(second, `pollcast_gateway_connections_refused_total{reason="queue"}`),
		published, reads, cpu, ownCPU.Seconds())
	return took
}

const stormTopics = 10

// stormClient is a client that costs as little as possible: many of them share
// two cores with the gateway under test.
type stormClient struct {
	forget   bool // it reconnects without a position
	resumed  bool
	epoch    string
	seq      atomic.Uint64
	versions map[string]uint64
	err      error // the first broken promise

	mu      sync.Mutex
	nc      net.Conn
	stopped bool
}

// live connects, as often as necessary, until end is closed or stop is called.
// Then it waits for its connection to end. in is called when it is subscribed.
func (c *stormClient) live(addr string, in func(), end <-chan struct{}) {
	for c.err == nil {
		nc, r, after, err := c.connect(addr)
		if err == nil {
			c.read(r, in)
			nc.Close()
		}
		wait := after + rand.N(200*time.Millisecond)
		select {
		case <-end: // the gateway has ended: connect to the other one at once
			return
		default:
		}
		select {
		case <-end:
			return
		case <-time.After(wait):
		}
	}
}

// stop ends the client's connection, also one that is being made.
func (c *stormClient) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped = true; c.nc != nil {
		c.nc.Close()
	}
}

// connect does the handshake and subscribes. It obeys Retry-After.
func (c *stormClient) connect(addr string) (nc net.Conn, r *bufio.Reader, wait time.Duration, err error) {
	fail := func(wait time.Duration, err error) (net.Conn, *bufio.Reader, time.Duration, error) {
		if nc != nil {
			nc.Close()
		}
		return nil, nil, wait, err
	}
	if nc, err = net.DialTimeout("tcp", addr, 5*time.Second); err != nil {
		return fail(0, err)
	}
	c.mu.Lock()
	c.nc = nc
	stopped := c.stopped
	c.mu.Unlock()
	if stopped {
		return fail(0, net.ErrClosed)
	}
	_ = nc.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprintf(nc, upgradeRequest, "/v1/ws")
	r = bufio.NewReaderSize(nc, 2<<10)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return fail(0, err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		seconds, _ := strconv.Atoi(res.Header.Get("Retry-After"))
		// 408: the gateway was too busy to read the request in time.
		if res.StatusCode != http.StatusRequestTimeout && (res.StatusCode != http.StatusServiceUnavailable || seconds < 1) {
			c.err = fmt.Errorf("refused with %s, Retry-After %q", res.Status, res.Header.Get("Retry-After"))
		}
		return fail(time.Duration(seconds)*time.Second, errors.New(res.Status))
	}
	sub := `{"subscribe":{"topics":["storm.>"]}}`
	if c.epoch != "" {
		sub = fmt.Sprintf(`{"subscribe":{"topics":["storm.>"],"since":{"seq":%d,"epoch":%q}}}`, c.seq.Load(), c.epoch)
	}
	frame := binary.BigEndian.AppendUint16([]byte{0x81, 0x80 | 126}, uint16(len(sub)))
	if len(sub) < 126 {
		frame = []byte{0x81, 0x80 | byte(len(sub))}
	}
	if _, err = nc.Write(append(append(frame, 0, 0, 0, 0), sub...)); err != nil {
		return fail(0, err)
	}
	_ = nc.SetDeadline(time.Time{})
	return nc, r, 0, nil
}

// read reads frames and compares the versions of every topic.
func (c *stormClient) read(r *bufio.Reader, in func()) {
	for {
		head, err := r.Peek(2)
		if err != nil {
			return
		}
		op, n, size := head[0], int(head[1]), 2
		if n == 126 {
			if head, err = r.Peek(4); err != nil {
				return
			}
			n, size = int(binary.BigEndian.Uint16(head[2:])), 4
		}
		frame, err := r.Peek(size + n)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			c.err = fmt.Errorf("frame of %d bytes: %w", n, err)
		case err == nil && op == 0x81:
			err = c.take(frame[size:], in)
			c.err = err
		}
		if err != nil {
			return
		}
		_, _ = r.Discard(size + n) // the bytes were peeked before
	}
}

// take reads as little of one frame as necessary: most are events.
func (c *stormClient) take(frame []byte, in func()) error {
	event, isEvent := bytes.CutPrefix(frame, []byte(`{"event":{"topic":"`))
	if !isEvent {
		var f struct {
			Event, Error json.RawMessage
			Subscribed   *struct {
				Epoch   string
				Resumed bool
			}
		}
		if err := json.Unmarshal(frame, &f); err != nil {
			return fmt.Errorf("frame %q: %w", frame, err)
		}
		if f.Event != nil || f.Error != nil {
			return fmt.Errorf("frame %q is not one that it can read, or an error", frame)
		}
		if f.Subscribed != nil {
			if c.resumed = f.Subscribed.Resumed; !c.resumed {
				c.versions = map[string]uint64{}
			}
			c.epoch = f.Subscribed.Epoch
			in()
		}
		return nil
	}
	topic, rest, _ := bytes.Cut(event, []byte(`"`))
	seq, version := numberAfter(rest, `"seq":`), numberAfter(rest, `"version":`)
	if seq == 0 || version == 0 {
		return fmt.Errorf("frame %q has no seq and version", frame)
	}
	was, known := c.versions[string(topic)]
	if known && version != was+1 {
		return fmt.Errorf("version %d of %s after %d", version, topic, was)
	}
	c.versions[string(topic)] = version
	c.seq.Store(seq)
	return nil
}

// numberAfter returns the whole number after a key.
func numberAfter(b []byte, key string) (n uint64) {
	_, digits, _ := bytes.Cut(b, []byte(key))
	for _, d := range digits {
		if d < '0' || d > '9' {
			break
		}
		n = 10*n + uint64(d-'0')
	}
	return n
}
