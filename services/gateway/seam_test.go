package gateway

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/wire"
)

// While events come as fast as they can, a client takes a large set of topics
// in and out. Each time it goes to another feed, and what it had before goes on
// there without a gap and without a repetition, whatever is appended while the
// snapshot of the others is being made.
func TestSeamUnderLoad(t *testing.T) {
	for _, delivery := range []string{wire.DeliverAll, wire.DeliverLatest} {
		t.Run(delivery, func(t *testing.T) {
			r := newRig(t, func(c *Config) { c.MaxLag, c.MaxLagTime = 64<<20, time.Minute })
			s := r.gw.server
			body := `"` + strings.Repeat("x", 4<<10) + `"`
			var many []bus.Message
			for i := range 500 {
				m := value(fmt.Sprintf("big.t%d", i), 1)
				m.Event.Data = []byte(body)
				many = append(many, m)
			}
			publish(s, many...)
			p := r.dial("/v1/ws")
			p.send(fmt.Sprintf(`{"id":1,"subscribe":{"topics":["a.x"],"delivery":%q}}`, delivery))
			p.until("subscribed", func(f wire.ServerFrame) bool { return f.Subscribed != nil })
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				for v := uint64(1); ; v++ {
					select {
					case <-stop:
						return
					default:
						publish(s, value("a.x", v))
						if delivery == wire.DeliverAll && v%10 == 0 {
							time.Sleep(50 * time.Microsecond) // so that the client keeps up
						}
					}
				}
			}()
			defer func() {
				close(stop)
				<-stopped
			}()
			last := uint64(0)
			look := func(v uint64) {
				t.Helper()
				if v <= last || delivery == wire.DeliverAll && v != last+1 {
					t.Fatalf("version %d after %d", v, last)
				}
				last = v
			}
			until := func(ok func(wire.ServerFrame) bool) {
				t.Helper()
				for {
					f := p.next()
					if f.Event != nil && f.Event.Topic == "a.x" {
						look(f.Event.Version)
					}
					if ok(f) {
						return
					}
				}
			}
			for i := range 30 {
				p.send(fmt.Sprintf(`{"id":%d,"subscribe":{"topics":["big.>"],"delivery":%q}}`, 10+i, delivery))
				until(func(f wire.ServerFrame) bool { return f.Subscribed != nil })
				p.send(fmt.Sprintf(`{"id":%d,"unsubscribe":{"topics":["big.>"]}}`, 100+i))
				until(func(f wire.ServerFrame) bool { return f.Unsubscribed != nil })
			}
		})
	}
}
