package gateway

import (
	"strconv"
	"testing"

	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/wire"
)

// An error of NATS that the client library does not know costs a gateway neither
// its connection nor its clients.
func TestAnErrorOfNATSEndsNoClient(t *testing.T) {
	t.Parallel()
	r := &rig{t: t, nats: bustest.Start(t), versions: map[string]uint64{}}
	_, r.js, r.names = r.nats.JetStream()
	r.through = r.nats.NewProxy()
	r.gw, r.stop = r.start(nil)
	p := r.dial("/v1/ws?topics=a.b")
	for i := range 3 {
		before := r.gw.nc.Load().NATS()
		if r.through.Inject("-ERR 'Whatever Is Wrong'") == 0 {
			t.Fatal("the gateway is not connected")
		}
		eventually(t, "another connection", func() bool { return r.gw.nc.Load().NATS() != before && r.gw.Ready() == nil })
		r.event("a.b", strconv.Itoa(i))
		p.until("the event", func(f wire.ServerFrame) bool { return f.Event != nil && string(f.Event.Data) == strconv.Itoa(i) })
	}
}
