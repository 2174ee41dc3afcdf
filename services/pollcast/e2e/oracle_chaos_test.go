//go:build chaos

package e2e

import (
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// chaosTime returns how long a chaos test breaks things: the variable CHAOS, or
// three minutes.
func chaosTime(t *testing.T) time.Duration {
	t.Helper()
	length := 3 * time.Minute
	if text := os.Getenv("CHAOS"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatalf("CHAOS: %v", err)
		}
	}
	return length
}

// TestChaosGateways breaks three gateways and a NATS cluster for three minutes
// while hundreds of clients are connected.
func TestChaosGateways(t *testing.T) { chaos(t, faults) }

// TestChaosRoutes also breaks the network within the NATS cluster.
func TestChaosRoutes(t *testing.T) { chaos(t, slices.Concat(faults, routeFaults)) }

func chaos(t *testing.T, kinds []fault) {
	t.Helper()
	w := newWorld(t, chaosSeed(t), worldSize{gateways: 3, witnesses: 280, sdks: 12, topics: 10, rate: 80, history: 600})
	w.listening()
	w.roll()
	w.breakThings(chaosTime(t), 1500*time.Millisecond, kinds)
	w.finish()
}

// failedSeeds are the seeds with which TestOracle once found a fault: a replay
// that a lagging replica had cut short, and freshness that went back behind it.
var failedSeeds = []uint64{733942}

func TestChaosGatewaysFailedSeeds(t *testing.T) {
	for _, seed := range failedSeeds {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { oracle(t, seed) })
	}
}
