package e2e

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestStorm: see storm. Without a look at the clock.
func TestStorm(t *testing.T) {
	t.Parallel()
	storm(t, 1000, 2*time.Minute)
}

// storm holds clients on one gateway and kills it. All come back at once to
// another, nine of ten where they were, one of ten from the beginning. Each must
// have every event in the end, and for those who begin anew the gateway must
// not have looked more often than it promises. It returns how long it took
// until all were back.
func storm(t *testing.T, clients int, within time.Duration) time.Duration {
	s := newStack(t, "    s: {upstreams: [\"http://127.0.0.1:1/\"], polls: {p: {method: p}}}\n")
	s.nats.start()
	pub := s.nats.publisher(10_000)
	first, second := s.gateway(), s.gateway()
	first.ready()
	second.ready()
	for i := range stormTopics {
		pub.event(fmt.Sprintf("storm.n%d", i), "0")
	}
	all := make([]*stormClient, clients)
	var running sync.WaitGroup
	var back, resumed atomic.Int64
	stop := make(chan struct{})
	other := make(chan struct{}) // closed when the first gateway is dead
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
			c.live(first.addr, sync.OnceFunc(ready.Done), other, stop)
			if c.forget {
				c.epoch = ""
			}
			c.live(second.addr, sync.OnceFunc(func() {
				back.Add(1)
				if c.resumed {
					resumed.Add(1)
				}
			}), stop, stop)
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
	before := metric(second, "pollcast_gateway_snapshots_total")
	start := time.Now()
	close(other)
	first.kill()
	for back.Load() < int64(clients) {
		if time.Since(start) > within || t.Failed() {
			close(stop)
			running.Wait()
			t.Fatalf("after %v %d of %d are back", within, back.Load(), clients)
		}
		publish()
		time.Sleep(10 * time.Millisecond)
	}
	took := time.Since(start)
	took10 := int(took/(100*time.Millisecond)) + 1
	if taken := int(metric(second, "pollcast_gateway_snapshots_total") - before); taken < 1 || taken > took10 {
		t.Errorf("%d snapshots of one pattern in %v, want one at most every 100 ms", taken, took)
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
	close(stop)
	running.Wait()
	t.Logf("%d clients were back after %v, %.0f refused and asked again; %d events meanwhile", clients, took.Round(time.Millisecond), metric(second, `pollcast_gateway_connections_refused_total{reason="queue"}`), published)
	return took
}

const stormTopics = 10

// A stormClient is as little as a client can be, so that there may be many.
type stormClient struct {
	forget   bool // it does not say where it was
	resumed  bool
	epoch    string
	seq      atomic.Uint64
	versions map[string]uint64
	err      error // what it was not promised
}

// live is connected, as often as it takes, until one of the channels is closed;
// then it waits for its connection to end, or ends it if it must stop. in is
// called when it is subscribed.
func (c *stormClient) live(addr string, in func(), end, stop chan struct{}) {
	for c.err == nil {
		nc, after, err := c.connect(addr)
		if err == nil {
			done := make(chan struct{})
			go func() {
				select {
				case <-stop:
				case <-done:
				}
				nc.Close()
			}()
			c.read(bufio.NewReaderSize(nc, 1<<10), in)
			close(done)
		}
		wait := after + rand.N(200*time.Millisecond)
		select {
		case <-end: // the gateway is gone: at once to the other
			return
		default:
		}
		select {
		case <-stop:
			return
		case <-end:
			return
		case <-time.After(wait):
		}
	}
}

// connect shakes hands and subscribes. It keeps to Retry-After.
func (c *stormClient) connect(addr string) (nc net.Conn, wait time.Duration, err error) {
	nc, err = net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil, 0, err
	}
	defer func(nc net.Conn) {
		if err != nil {
			nc.Close()
		}
	}(nc)
	_ = nc.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprintf(nc, upgradeRequest, "/v1/ws")
	one := make([]byte, 1)
	var head []byte
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		if _, err = io.ReadFull(nc, one); err != nil {
			return nil, 0, err
		}
		head = append(head, one[0])
	}
	res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), nil)
	if err != nil {
		return nil, 0, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		seconds, _ := strconv.Atoi(res.Header.Get("Retry-After"))
		// 408: the gateway had too much to do to read the request in time.
		if res.StatusCode != http.StatusRequestTimeout && (res.StatusCode != http.StatusServiceUnavailable || seconds < 1) {
			c.err = fmt.Errorf("refused with %s, Retry-After %q", res.Status, res.Header.Get("Retry-After"))
		}
		return nil, time.Duration(seconds) * time.Second, errors.New(res.Status)
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
		return nil, 0, err
	}
	_ = nc.SetDeadline(time.Time{})
	return nc, 0, nil
}

// read takes frames and holds the versions of every topic against each other.
func (c *stormClient) read(r *bufio.Reader, in func()) {
	var head [4]byte
	var body []byte
	for {
		if _, err := io.ReadFull(r, head[:2]); err != nil {
			return
		}
		n := int(head[1])
		if n == 126 {
			if _, err := io.ReadFull(r, head[2:]); err != nil {
				return
			}
			n = int(binary.BigEndian.Uint16(head[2:]))
		}
		body = append(body[:0], make([]byte, n)...)
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		if head[0] != 0x81 {
			continue
		}
		var f struct {
			Subscribed *struct {
				Epoch   string
				Resumed bool
			}
			Event *struct {
				Topic        string
				Seq, Version uint64
			}
		}
		if err := json.Unmarshal(body, &f); err != nil {
			c.err = fmt.Errorf("frame %q: %w", body, err)
			return
		}
		switch {
		case f.Subscribed != nil:
			if c.resumed = f.Subscribed.Resumed; !c.resumed {
				c.versions = map[string]uint64{}
			}
			c.epoch = f.Subscribed.Epoch
			in()
		case f.Event != nil:
			if was := c.versions[f.Event.Topic]; was != 0 && f.Event.Version != was+1 {
				c.err = fmt.Errorf("version %d of %s after %d", f.Event.Version, f.Event.Topic, was)
				return
			}
			c.versions[f.Event.Topic] = f.Event.Version
			c.seq.Store(f.Event.Seq)
		}
	}
}
