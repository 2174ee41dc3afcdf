package e2e

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// BenchmarkIsolation measures what slow clients cost the others: the p99 from
// publishing to reading of 95 clients, beside 5 that read too, and beside 5 that
// read a byte a second. The ratio should be below 1.2.
//
//	go test ./e2e -run '^$' -bench Isolation -benchtime 1x
func BenchmarkIsolation(b *testing.B) {
	s := newStack(b, "    s: {upstreams: [\"http://127.0.0.1:1/\"], polls: {p: {method: p}}}\n")
	s.nats.start()
	pub := s.nats.publisher(64)
	gw := s.gateway()
	gw.ready()
	body := `"` + strings.Repeat("x", 8<<10) + `"`
	run := func(slow time.Duration) time.Duration {
		const clients, events = 100, 400
		var mu sync.Mutex
		var took []time.Duration
		var conns []net.Conn
		var readers sync.WaitGroup
		for i := range clients {
			delivery := "all"
			if i%20 == 0 {
				delivery = "latest" // so that a slow client is not closed
			}
			nc := benchClient(b, gw.addr, delivery)
			conns = append(conns, nc)
			readers.Go(func() {
				if i%20 == 0 && slow > 0 {
					for one := make([]byte, 1); ; time.Sleep(slow) {
						if _, err := nc.Read(one); err != nil {
							return
						}
					}
				}
				benchRead(nc, func(d time.Duration) {
					if i%20 != 0 {
						mu.Lock()
						took = append(took, d)
						mu.Unlock()
					}
				})
			})
		}
		eventually(b, "all are subscribed", func() error {
			var st struct{ Subscriptions int }
			_, text, err := get("http://" + gw.ops + "/status")
			if err == nil {
				err = json.Unmarshal(text, &st)
			}
			if err == nil && st.Subscriptions != clients {
				err = fmt.Errorf("%d are", st.Subscriptions)
			}
			return err
		})
		for range events {
			pub.event("big.x", body)
			time.Sleep(20 * time.Millisecond)
		}
		for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			mu.Lock()
			n := len(took)
			mu.Unlock()
			if n >= events*clients*19/20 {
				break
			}
			if time.Now().After(end) {
				b.Fatalf("%d of %d deliveries", n, events*clients*19/20)
			}
		}
		if blocked := metric(gw, "pollcast_gateway_connections_blocked"); slow > 0 && blocked < clients/20 {
			b.Errorf("%v clients are slow, want %d", blocked, clients/20)
		}
		for _, nc := range conns {
			nc.Close()
		}
		readers.Wait()
		slices.Sort(took)
		return took[len(took)*99/100]
	}
	var without, with, ratios []float64
	for b.Loop() {
		for range 3 { // alternately: other load on the machine affects both
			w, s := run(0).Seconds(), run(time.Second).Seconds()
			without, with, ratios = append(without, w*1000), append(with, s*1000), append(ratios, s/w)
		}
	}
	median := func(all []float64) float64 { slices.Sort(all); return all[len(all)/2] }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(without), "p99-ms")
	b.ReportMetric(median(with), "p99-ms-beside-slow")
	b.ReportMetric(median(ratios), "ratio")
}

func benchClient(b *testing.B, addr, delivery string) net.Conn {
	b.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	_ = nc.(*net.TCPConn).SetReadBuffer(32 << 10)
	fmt.Fprintf(nc, upgradeRequest, "/v1/ws")
	for head, one := "", make([]byte, 1); !strings.HasSuffix(head, "\r\n\r\n"); head += string(one) {
		if _, err := io.ReadFull(nc, one); err != nil {
			b.Fatal(err)
		}
	}
	sub := fmt.Sprintf(`{"subscribe":{"topics":["big.x"],"delivery":%q}}`, delivery)
	if _, err := nc.Write(append([]byte{0x81, 0x80 | byte(len(sub)), 0, 0, 0, 0}, sub...)); err != nil {
		b.Fatal(err)
	}
	return nc
}

// benchRead calls each with the age of every live event.
func benchRead(nc net.Conn, each func(time.Duration)) {
	r := bufio.NewReader(nc)
	for {
		var head [4]byte
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
		body := make([]byte, n)
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		var f frame
		if json.Unmarshal(body, &f) == nil && f.Event != nil && f.Event.Phase == "live" {
			each(time.Since(f.Event.AsOf))
		}
	}
}
