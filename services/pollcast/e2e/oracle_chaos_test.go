//go:build chaos

package e2e

import (
	"testing"
	"time"
)

// TestChaosGateways breaks three gateways and a NATS cluster for three minutes,
// under hundreds of clients.
func TestChaosGateways(t *testing.T) {
	w := newWorld(t, chaosSeed(t), worldSize{gateways: 3, witnesses: 280, sdks: 12, topics: 10, rate: 80, history: 600})
	w.breakThings(3*time.Minute, 1500*time.Millisecond, faults)
	w.finish()
}
