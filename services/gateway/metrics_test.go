package gateway

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// Alerts go by this gauge: it must say what /readyz says.
func TestReadyGauge(t *testing.T) {
	r := newRig(t, nil)
	shows := func(line string) func() bool {
		return func() bool {
			res, err := http.Get("http://" + r.gw.OperationsAddr() + "/metrics")
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			return strings.Contains(string(body), "\n"+line+"\n")
		}
	}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	eventually(t, "the gauge says ready", shows("pollcast_gateway_ready 1"))
	r.nats.Stop()
	eventually(t, "the gauge says not ready", shows("pollcast_gateway_ready 0"))
}
