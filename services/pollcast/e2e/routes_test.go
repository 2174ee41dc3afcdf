package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestGatewayAtServerCutOff cuts the NATS server of a gateway off from the two
// others, once by a network that resets connections, once by a silent one. The
// gateway's own connection stays open. Its values become stale in time, and then
// it moves to a server with a quorum and continues without a gap.
func TestGatewayAtServerCutOff(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		cut  func(*proxy)
	}{{"severed", (*proxy).sever}, {"held back", (*proxy).hold}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, s := newCutStack(t)
			s.sets = []string{"nats.url=" + c.urls()}
			gateway := s.gateway()
			alone := c.nodes[0]
			within(t, clusterPatience, "the gateway is at a NATS server", func() error {
				at := gateway.natsServer()
				for _, alone = range c.nodes {
					if strings.Contains(at, alone.addr) {
						return nil
					}
				}
				return fmt.Errorf("it is at %q", at)
			})
			s.sets = nil
			s.poller("nats.url=" + c.without(alone)).readyWithin(clusterPatience)
			gateway.readyWithin(clusterPatience)
			viewer := dial(t, gateway.addr, "/v1/ws?topics=>")
			viewer.await("values", liveEvent("cut.value"))

			viewer.skip()
			cut := time.Now()
			for _, p := range c.around(alone) {
				tt.cut(p)
			}
			stale := viewer.await("the values are stale", isStale("cut.value"))
			if after := stale.at.Sub(cut); after > 600*time.Millisecond+time.Second+staleGrace {
				t.Errorf("the values were called stale after %v", after)
			}
			if _, err := viewer.find(clusterPatience, isFresh("cut.value")); err != nil {
				t.Fatalf("the values are fresh again, from another server: %v; the gateway is at %s\n%s", err,
					gateway.natsServer(), tail(gateway.logs(), 20))
			}
			viewer.await("and go on", liveEvent("cut.value"))
			t.Logf("fresh again %v after the cut", time.Since(cut).Round(time.Millisecond))
			if at := gateway.natsServer(); strings.Contains(at, alone.addr) {
				t.Errorf("the gateway is still at %s", at)
			}
			for _, p := range c.around(alone) {
				p.let()
			}
			wantNoGap(t, viewer)
		})
	}
}

// natsServer returns the server to which a gateway is connected.
func (v *service) natsServer() string {
	v.t.Helper()
	var s struct{ NATSServer string }
	if _, body, err := get("http://" + v.ops + "/status"); err == nil {
		err = json.Unmarshal(body, &s)
		if err != nil {
			v.t.Fatalf("/status: %v", err)
		}
	}
	return s.NATSServer // empty while it is not connected
}
