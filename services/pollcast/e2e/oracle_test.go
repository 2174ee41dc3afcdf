package e2e

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// seedVariable is the variable with the seed of the oracle's tests.
const seedVariable = "POLLCAST_CHAOS_SEED"

// chaosSeed returns the seed of the environment, or a new one every time.
func chaosSeed(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano()) % 1_000_000
	if text := os.Getenv(seedVariable); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s: %v", seedVariable, err)
		}
	}
	t.Logf("%s=%d", seedVariable, seed)
	return seed
}

// TestOracle restarts both gateways under load, which no client may notice, and
// then breaks gateways and a NATS cluster for a short while. TestChaosGateways
// does the same for long.
func TestOracle(t *testing.T) { oracle(t, chaosSeed(t)) }

func oracle(t *testing.T, seed uint64) {
	t.Helper()
	w := newWorld(t, seed, worldSize{gateways: 2, witnesses: 56, sdks: 4, topics: 6, rate: 60, history: 1000})
	w.listening()
	w.roll()
	w.breakThings(8*time.Second, 600*time.Millisecond, quickFaults())
	w.finish()
}

// quickFaults returns the faults that are repaired soon.
func quickFaults() []fault {
	var quick []fault
	for _, f := range faults {
		if f.weight > 1 {
			f.most = min(f.most, 1500*time.Millisecond)
			quick = append(quick, f)
		}
	}
	return quick
}
